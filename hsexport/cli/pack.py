"""`hsexport pack`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hsengines.errors import HSError
from hsexport.cli.report import BuildReport
from hsexport.deploy.archive.pins import given_versions
from hsexport.deploy.archive.shipment import RuntimeOptions, Shipment, ship
from hsexport.deploy.archive.target import PLATFORMS, Target


def pack(
    bundle: Annotated[Path, typer.Argument(help="a bundle that `hsexport build` wrote")],
    out: Annotated[
        Path, typer.Option(help="the archive, .tar or .tar.gz; only float32 weights become smaller by gzip")
    ],
    runtime: Annotated[
        bool, typer.Option("--runtime", help="with hsexport's wheel and pinned requirements of the bundle's backend")
    ] = False,
    wheels: Annotated[
        bool,
        typer.Option("--wheelhouse/--no-wheels", help="with the requirements' wheels, to install without a network"),
    ] = True,
    python: Annotated[str | None, typer.Option(help="the other machine's Python, if not this one's: 3.11")] = None,
    platform: Annotated[str | None, typer.Option(help=f"if not this one's: {', '.join(PLATFORMS)}")] = None,
    versions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="lines name==version, packed whatever is installed here"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print what was packed for scripts")] = False,
) -> None:
    """Pack a bundle into one archive to copy; with --runtime, with all that runs it on a machine without a network."""
    if not runtime and (python or platform or versions):
        raise HSError("--python, --platform and --versions choose a runtime", "add --runtime")
    options = None
    if runtime:
        options = RuntimeOptions(Target(python, platform), wheels, given_versions(versions) if versions else {})
    with BuildReport("nothing was written") as report:
        done = ship(bundle, out, options, report)
    if as_json:
        typer.echo(json.dumps(_record(done)))
    else:
        Console(stderr=True, highlight=False).print(
            f"{out}: {done.size_bytes / 1e6:.1f} MB", soft_wrap=True, markup=False
        )


def _record(done: Shipment) -> dict[str, object]:
    return {
        "archive": str(done.archive),
        "size_bytes": done.size_bytes,
        "requirements": done.requirements,
        "wheels": done.wheels,
    }
