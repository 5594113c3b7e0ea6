"""`hsexport batch`: works without torch."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hsexport.cli.options import size_from_text
from hsexport.cli.report import BuildReport


def batch(
    bundle: Annotated[Path, typer.Argument(help="a bundle that `hsexport build` wrote")],
    prompts: Annotated[
        Path, typer.Option(help=".txt: a prompt a line; .jsonl, .csv: prompt and, if wanted, negative_prompt and seed")
    ],
    out: Annotated[Path, typer.Option(help="a directory; what it holds of this very job is kept")],
    replicas: Annotated[int, typer.Option(help="sessions that draw at the same time", min=1)] = 1,
    gpus_per_replica: Annotated[float | None, typer.Option(help="default: 1, or 0 on a CPU", min=0)] = None,
    schedule: Annotated[
        str | None, typer.Option(help="hybridstitch, large, small, or large:10,hybrid:10,small:8")
    ] = None,
    seed: Annotated[int, typer.Option(help="picture i uses seed + i, unless its line has a seed")] = 0,
    negative_prompt: Annotated[str, typer.Option(help="for lines that have none")] = "",
    steps: Annotated[int | None, typer.Option(help="steps of a preset")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="1 or less switches guidance off")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="in pixels, within the bundle's range")] = None,
    max_batch: Annotated[
        int | None, typer.Option(help="pictures drawn together; default: as built on a GPU, 1 on a CPU", min=1)
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of each replica; 0 shares the cores out", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print the summary for scripts")] = False,
) -> None:
    """Draw every prompt of a file; the same command goes on after whatever stopped it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from hsexport.deploy.ray.batch import BatchOptions, run_batch

    options = BatchOptions(
        seed=seed,
        negative_prompt=negative_prompt,
        schedule=schedule,
        steps=steps,
        guidance_scale=guidance_scale,
        size=size_from_text(size) if size else (None, None),
        replicas=replicas,
        gpus_per_replica=gpus_per_replica,
        max_batch=max_batch,
        threads=threads,
    )
    with BuildReport("what is drawn is kept; the same command goes on from there") as report:
        summary = run_batch(bundle, prompts, out, options, report)
    console = Console(stderr=True, highlight=False)
    for line in summary.failed:
        console.print(f"failed: {line}", soft_wrap=True, markup=False)
    if as_json:
        typer.echo(json.dumps(asdict(summary)))
    else:
        told = f"{out}: {summary.done} done, {summary.kept} kept, {len(summary.failed)} failed"
        console.print(told, soft_wrap=True, markup=False)
    if summary.failed:
        raise typer.Exit(1)
