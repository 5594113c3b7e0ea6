"""`hsexport batch`: works without torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from hsexport.cli.command import FILE, bundle_argument, command, json_option
from hsexport.cli.options import option_of, picture_options, record_options
from hsexport.deploy.ray.batch import BatchOptions, run_batch
from hsexport.report import BuildReport
from hsruntime.options import PictureOptions

OPTIONS = {name: option_of(BatchOptions, name) for name in BatchOptions.__struct_fields__}


@command()
@bundle_argument()
@click.option(
    "--prompts",
    type=FILE,
    required=True,
    help=".txt: a prompt a line; .jsonl, .csv: prompt and, if wanted, other prompts, seed, and files of pictures",
)
@click.option("--out", type=FILE, required=True, help="a directory; what it holds of this very job is kept")
@record_options(BatchOptions, OPTIONS, "options")
@picture_options(seed="picture i uses seed + i, unless its line has a seed", negative_prompt="for lines that have none")
@json_option("print the summary for scripts")
def batch(
    bundle: Path, prompts: Path, out: Path, options: BatchOptions, picture: PictureOptions, as_json: bool
) -> None:
    """Draw every prompt of a file; the same command goes on after whatever stopped it."""
    with BuildReport("what is drawn is kept; the same command goes on from there") as report:
        summary = run_batch(bundle, prompts, out, picture, options, report)
    for line in summary.failed:
        click.echo(f"failed: {line}", err=True)
    if as_json:
        click.echo(json.dumps(asdict(summary)))
    else:
        click.echo(f"{out}: {summary.done} done, {summary.kept} kept, {len(summary.failed)} failed", err=True)
    if summary.failed:
        raise SystemExit(1)
