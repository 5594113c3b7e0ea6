"""`hsexport batch`: works without torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hsexport.cli import options
from hsexport.cli.command import FILE, bundle_argument, command, json_option
from hsexport.report import BuildReport
from hsruntime.options import PictureOptions, SessionOptions


@command()
@bundle_argument()
@click.option(
    "--prompts",
    type=FILE,
    required=True,
    help=".txt: a prompt a line; .jsonl, .csv: prompt and, if wanted, prompt_2, prompt_3, negative_prompt and seed",
)
@click.option("--out", type=FILE, required=True, help="a directory; what it holds of this very job is kept")
@click.option("--replicas", type=click.IntRange(1), default=1, help="sessions that draw at the same time")
@click.option("--gpus-per-replica", type=click.FloatRange(0), help="default: 1, or 0 on a CPU")
@options.picture_options(
    seed="picture i uses seed + i, unless its line has a seed", negative_prompt="for lines that have none"
)
@options.max_batch
@options.option_of(SessionOptions, "threads", "CPU threads of each replica; 0 shares the cores out")
@json_option("print the summary for scripts")
def batch(bundle: Path, prompts: Path, out: Path, picture: PictureOptions, as_json: bool, **spread: Any) -> None:
    """Draw every prompt of a file; the same command goes on after whatever stopped it."""
    from hsexport.deploy.ray.batch import BatchOptions, run_batch

    with BuildReport("what is drawn is kept; the same command goes on from there") as report:
        summary = run_batch(bundle, prompts, out, BatchOptions(picture, **spread), report)
    for line in summary.failed:
        click.echo(f"failed: {line}", err=True)
    if as_json:
        click.echo(json.dumps(asdict(summary)))
    else:
        click.echo(f"{out}: {summary.done} done, {summary.kept} kept, {len(summary.failed)} failed", err=True)
    if summary.failed:
        raise SystemExit(1)
