"""Bundles of one pair for several backends: loops in turns, each bundle in a process of its own.

Runtimes disturb each other inside one process: their idle threads wait for work by spinning.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from hsengines.cores import usable_cores
from hsexport.measure.blocks import PATH, Measured, measured_on, measurement, table, threads_option
from hsexport.measure.processes import answering
from hsexport.measure.prompts import PROMPT
from hsexport.measure.straight import RIVALS, straight_loops
from hsexport.measure.straight import SCHEDULES as STRAIGHT_SCHEDULES
from hsexport.measure.turns import column, in_turns, median_of, speedups
from hsruntime import Session
from hsruntime.bundle.reader import open_bundle
from hsruntime.options import SessionOptions

SCHEDULES = ("large", "hybridstitch", "small")


@contextmanager
def loops(bundle: Path, threads: int) -> Iterator[Callable[[str], float]]:
    """The seconds of a loop by schedule."""
    with Session(open_bundle(bundle), SessionOptions(threads=threads)) as session:
        yield lambda schedule: session.generate(PROMPT, schedule=schedule).loop_seconds


def spin() -> None:
    """One busy thread, as a neighbour in a container may be."""
    while True:
        pass


@dataclass(frozen=True)
class Drawing:
    """What a process of its own draws, and with which schedules."""

    bundle: Path
    schedules: tuple[str, ...]
    loops: Callable[..., AbstractContextManager[Callable[[str], float]]]
    way: str = ""
    precision: str = ""

    def told(self) -> str:
        """As a table has it."""
        if self.way:
            return f"{self.way}, {self.precision}"
        manifest = open_bundle(self.bundle, hashes=False).manifest
        return f"`{self.bundle}`: {manifest.backend}, {manifest.precision}"


@contextmanager
def busy_process() -> Iterator[None]:
    """Another process that does nothing but spin meanwhile."""
    started = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    started.start()
    try:
        yield
    finally:
        started.kill()
        started.join()


def block(report: Measured) -> str:
    """A row for each bundle and schedule, quiet and beside a busy neighbour."""
    columns = (
        "drawn with: {drawn} | schedule: {schedule} | loop ms: {loop_ms:.0f}"
        " | over the first's time: {over_first[value]:.2f} ({over_first[low]:.2f} to {over_first[high]:.2f})"
        " | beside a busy process, ms: {busy_ms:.0f}"
        " | over the first's: {busy_over_first[value]:.2f} ({busy_over_first[low]:.2f} to {busy_over_first[high]:.2f})"
        " | over its own quiet: {busy_over_quiet:.2f}"
    )
    return table(columns, report["rows"]) + measured_on(report, f"medians of {report['rounds']} rounds in turns")


@measurement(block)
@click.argument("bundles", type=PATH, nargs=-1, required=True)
@click.option("--rounds", default=15, type=click.IntRange(2), help="in turns, after one that does not count")
@click.option("--straight", is_flag=True, help="also the first bundle's pair without this package's graphs")
@threads_option
def backends(bundles: tuple[Path, ...], rounds: int, straight: bool, threads: int) -> dict[str, Any]:
    """Set BUNDLES of one pair for several backends beside the first: loops, quiet and beside one spinning process."""
    drawing = {str(bundle): Drawing(bundle, SCHEDULES, loops) for bundle in bundles}
    if straight:
        for way, precision in RIVALS:
            straight_way = partial(straight_loops, way=way, precision=precision)
            drawing[f"{way} {precision}"] = Drawing(bundles[0], STRAIGHT_SCHEDULES, straight_way, way, precision)
    calls: dict[str, Callable[[], float]] = {}
    with ExitStack() as stack:
        for label, each in drawing.items():
            seconds = stack.enter_context(answering(label, each.loops, each.bundle, threads or usable_cores()))
            calls |= {f"{label} {name}": partial(seconds, name) for name in each.schedules}
        quiet = in_turns(calls, rounds)
        with busy_process():
            busy = in_turns(calls, rounds)
    rows = []
    for label, each in drawing.items():
        for name in each.schedules:
            row: dict[str, Any] = {"drawn": each.told(), "schedule": name}
            for state, played in (("", quiet), ("busy_", busy)):
                own, first = (column(played, f"{one} {name}") for one in (label, bundles[0]))
                row[f"{state or 'loop_'}ms"] = 1000 * float(np.median(own))
                row[f"{state}over_first"] = vars(median_of(speedups(own, first)))
            row["busy_over_quiet"] = row["busy_ms"] / row["loop_ms"]
            rows.append(row)
    return {"rounds": rounds, "rows": rows}
