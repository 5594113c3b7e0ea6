"""`hsexport pack`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from hsengines.errors import HSError
from hsexport.cli.command import FILE, bundle_argument, command, json_option, one_of
from hsexport.deploy.archive.archive import RuntimeOptions, archive_bundle
from hsexport.deploy.archive.pins import PLATFORMS, Target, given_versions
from hsexport.report import BuildReport


@command()
@bundle_argument()
@click.option(
    "--out",
    type=FILE,
    required=True,
    help="the archive, .tar or .tar.gz; only float32 weights become smaller by gzip",
)
@click.option("--runtime", is_flag=True, help="with hsexport's wheel and pinned requirements of the bundle's backend")
@click.option(
    "--wheelhouse/--no-wheels",
    "wheels",
    default=True,
    help="with the requirements' wheels, to install without a network",
)
@click.option("--python", help="the other machine's Python, if not this one's: 3.11")
@click.option("--platform", shell_complete=one_of(lambda: PLATFORMS), help=f"if not this one's: {', '.join(PLATFORMS)}")
@click.option("--versions", type=FILE, metavar="FILE", help="lines name==version, packed whatever is installed here")
@json_option("print what was packed for scripts")
def pack(
    bundle: Path,
    out: Path,
    runtime: bool,
    wheels: bool,
    python: str | None,
    platform: str | None,
    versions: Path | None,
    as_json: bool,
) -> None:
    """Pack a bundle into one archive to copy; with --runtime, with all that runs it on a machine without a network."""
    if not runtime and (python or platform or versions):
        raise HSError("--python, --platform and --versions choose a runtime", "add --runtime")
    options = None
    if runtime:
        options = RuntimeOptions(Target(python, platform), wheels, given_versions(versions) if versions else {})
    with BuildReport("nothing was written") as report:
        done = archive_bundle(bundle, out, options, report)
    if as_json:
        click.echo(json.dumps(asdict(done), default=str))
    else:
        click.echo(f"{out}: {done.size_bytes / 1e6:.1f} MB", err=True)
