#!/usr/bin/env python3
"""Sets a bundle beside diffusers' own pipeline and beside its own loop with the engines taken out.

Needs the [build] extra for diffusers. Everything runs in one process with the same number of threads.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from hsengines.null import NullBackend
from hsexport.build.quiet import hush_libraries
from hsexport.checkpoints import Pair, load_pair
from hsexport.measure.bench.eager import PAUSE_SECONDS, pipeline_for, pipeline_options
from hsexport.measure.bench.hardware import hardware
from hsexport.measure.contact_sheet import write_report
from hsruntime import Session
from hsruntime.bundle.reader import open_bundle
from hsruntime.options import SessionOptions

PROMPT = "red apple"


@dataclass(frozen=True)
class Comparison:
    """One model alone, whole pictures: text, loop, decoding."""

    model: str
    ours_ms: float
    diffusers_ms: float
    speedup: float  # median over rounds of diffusers' time over ours


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call, after a pause."""
    time.sleep(PAUSE_SECONDS)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(session: Session, pair: Pair, model: str, rounds: int) -> Comparison:
    """Interleaved rounds of ours and theirs after a warm-up round."""
    steps, options = session.manifest.facts.defaults.steps, pipeline_options(session.manifest)
    pipeline = pipeline_for(pair, model)

    def ours() -> None:
        session.generate(PROMPT, schedule=f"{model}:{steps}")

    def theirs() -> None:
        pipeline(PROMPT, num_inference_steps=steps, output_type="np", **options)

    times = [(timed(ours), timed(theirs)) for _ in range(rounds + 1)][1:]
    return Comparison(
        model=model,
        ours_ms=1000 * median(a for a, _ in times),
        diffusers_ms=1000 * median(b for _, b in times),
        speedup=median(b / a for a, b in times),
    )


def outside_engines(session: Session, empty: Session, rounds: int) -> float:
    """Share of the bundle's default schedule's loop that it takes with engines that do nothing."""

    def loop(session: Session) -> float:
        return median(session.generate(PROMPT).loop_seconds for _ in range(rounds + 1))

    return loop(empty) / loop(session)


def main(
    bundle: Annotated[Path, typer.Argument(help="a bundle")],
    large: Annotated[str | None, typer.Option(help="what it was built from, if that was a local path")] = None,
    small: Annotated[str | None, typer.Option(help="the same")] = None,
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 7,
    threads: Annotated[int, typer.Option(help="threads for both; 0 for all cores")] = 0,
    out: Annotated[Path | None, typer.Option("--json", help="also write the numbers here")] = None,
) -> None:
    """Measure large alone and small alone, ours and diffusers', in one run."""
    count = threads or os.cpu_count() or 1
    torch.set_num_threads(count)
    opened = open_bundle(bundle)
    pair = load_pair(large or opened.manifest.facts.large.source, small or opened.manifest.facts.small.source)
    with hush_libraries(), warnings.catch_warnings(), Session(opened, SessionOptions(threads=count)) as session:
        warnings.simplefilter("ignore")
        empty = Session(opened, backend=NullBackend())
        rows = [compare(session, pair, model, rounds) for model in ("large", "small")]
        outside = outside_engines(session, empty, rounds)
    table = Table("whole pictures", "ours ms", "diffusers ms", "speedup")
    for r in rows:
        table.add_row(r.model, f"{r.ours_ms:.0f}", f"{r.diffusers_ms:.0f}", f"{r.speedup:.2f}")
    Console().print(table)
    Console().print(f"stitched loop outside the engines: {outside:.1%} of its time")
    if out:
        write_report(
            out, {"hardware": asdict(hardware(count)), "outside_engines": outside, "rows": [asdict(r) for r in rows]}
        )


if __name__ == "__main__":
    typer.run(main)
