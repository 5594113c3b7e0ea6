"""`hsexport plan`: works without torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import click

from hsexport.build.request import BuildRequest
from hsexport.cli.build_options import build_request
from hsexport.cli.command import FILE, command, json_option, one_of
from hsexport.report import tables_console


def gpu_names() -> Iterable[str]:
    """What `--gpu` may be."""
    from hsexport.plan.gpus import GPUS

    return GPUS


@command()
@click.option("--out", type=FILE, default=Path("bundle"), help="where the bundle would go")
@build_request
@click.option(
    "--gpu",
    shell_complete=one_of(gpu_names),
    help="what it shall run on: h100, a100, l40s, l4, rtx4090, rtx5090, rtxpro6000, orin",
)
@json_option("print everything for scripts")
def plan(request: BuildRequest, gpu: str | None, as_json: bool) -> None:
    """Tell what a build and its pictures will need, without loading anything: disk, memory, operations, time.

    Of a hub id configurations and headers alone are downloaded.
    """
    from hsexport.cli.plan_tables import print_plan, told
    from hsexport.plan.gpus import gpu_named
    from hsexport.plan.plan import plan_for

    made = plan_for(request, gpu_named(gpu) if gpu else None)
    if as_json:
        click.echo(json.dumps(told(made), indent=2))
        return
    print_plan(tables_console(), made)
