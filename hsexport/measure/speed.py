"""A bundle beside diffusers' own pipeline, and beside its own loop with the engines taken out.

Needs the [build] extra for diffusers. Everything runs in one process with the same number of threads.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from hsexport.build.quiet import hush_libraries
from hsexport.measure.blocks import Measured, bundle_argument, finish, json_option, measured_on, table
from hsexport.measure.machine import usable_cores
from hsexport.measure.prompts import PROMPT
from hsexport.measure.turns import column, in_turns, outside_engines, seconds_of, speedups
from hsruntime import Session
from hsruntime.bundle.reader import open_bundle
from hsruntime.options import SessionOptions

if TYPE_CHECKING:
    from hsexport.families.pair import Pair

COLUMNS = (
    "whole picture: {model} only | hsexport ms: {ours_ms:.0f} | diffusers eager ms: {diffusers_ms:.0f}"
    " | speedup: {speedup:.2f}"
)


def compare(session: Session, pair: Pair, model: str, rounds: int) -> dict[str, Any]:
    """One model alone, whole pictures: text, loop, decoding; ours and theirs in turns."""
    from hsexport.measure.eager import PAUSE_SECONDS, pipeline_for, pipeline_options

    steps, options = session.manifest.facts.defaults.steps, pipeline_options(session.manifest.facts)
    pipeline = pipeline_for(pair, model)

    def timed(call: Callable[[], Any]) -> float:
        time.sleep(PAUSE_SECONDS)
        return seconds_of(call)

    ours = partial(session.generate, PROMPT, schedule=f"{model}:{steps}")
    theirs = partial(pipeline, PROMPT, num_inference_steps=steps, output_type="np", **options)
    played = in_turns({"ours": partial(timed, ours), "theirs": partial(timed, theirs)}, rounds)
    times = {name: column(played, name) for name in ("ours", "theirs")}
    return {
        "model": model,
        "ours_ms": 1000 * float(np.median(times["ours"])),
        "diffusers_ms": 1000 * float(np.median(times["theirs"])),
        "speedup": float(np.median(speedups(times["theirs"], times["ours"]))),
    }


def block(report: Measured) -> str:
    """Both models, and the share of the stitched loop that is not the engines'."""
    outside = f"\nOf the stitched loop's time {report['outside_engines']:.2%} passes outside the engines.\n"
    return table(COLUMNS, report["rows"]) + outside + measured_on(report)


@click.command()
@bundle_argument
@click.option("--large", help="what it was built from, if that was a local path")
@click.option("--small", help="the same")
@click.option("--rounds", default=7, help="in turns")
@click.option("--threads", default=0, help="for both; 0 for all cores")
@json_option
def main(bundle: Path, large: str | None, small: str | None, rounds: int, threads: int, json_file: Path | None) -> None:
    """Measure large alone and small alone, ours and diffusers', in one run."""
    import torch

    from hsexport.families.pair import load_pair

    count = threads or usable_cores()
    torch.set_num_threads(count)
    opened = open_bundle(bundle)
    pair = load_pair(large or opened.manifest.facts.large.source, small or opened.manifest.facts.small.source)
    with hush_libraries(), warnings.catch_warnings(), Session(opened, SessionOptions(threads=count)) as session:
        warnings.simplefilter("ignore")
        rows = [compare(session, pair, model, rounds) for model in ("large", "small")]
        empty, whole = outside_engines(session, rounds)
    finish(block, json_file, threads, outside_engines=empty / whole, rows=rows)
