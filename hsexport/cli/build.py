"""`hsexport build`."""

from __future__ import annotations

import json
from time import perf_counter

import click

from hsexport.build.request import BuildRequest
from hsexport.cli.build_options import build_request
from hsexport.cli.command import FILE, command, json_option
from hsexport.report import BuildReport
from hsruntime.bundle.reader import Bundle


@command()
@click.option("--out", type=FILE, required=True, help="the bundle to write; a bundle already there is replaced")
@build_request
@json_option("print a summary for scripts")
def build(request: BuildRequest, as_json: bool) -> None:
    """Build a bundle from a pair: load, export, optimise, compile, verify, pack.

    Killed anywhere, the same command goes on where it was.
    """
    from hsexport.build.build import build as build_bundle
    from hsexport.build.quiet import hush_libraries
    from hsexport.plan.plan import ask_room

    start = perf_counter()
    with BuildReport("what is finished is kept, the same command goes on from there") as report, hush_libraries():
        bundle = build_bundle(request, report, ask_room)
    seconds = perf_counter() - start
    if as_json:
        stopped = {"stopped_after": request.stop_after, "cache": str(request.cache), "seconds": seconds}
        click.echo(json.dumps(_summary(bundle, seconds) if bundle else stopped))
    else:
        click.echo(f"{_done(bundle, request)} in {seconds:.0f} s", err=True)


def _done(bundle: Bundle | None, request: BuildRequest) -> str:
    if bundle is None:
        return f"stopped after {request.stop_after}, as asked; what is done is kept in {request.cache}"
    return f"built {request.out}: {sum(f.size_bytes for f in bundle.manifest.files) / 1e6:.1f} MB"


def _summary(bundle: Bundle, seconds: float) -> dict[str, object]:
    manifest = bundle.manifest
    return {
        "bundle": str(bundle.path),
        "backend": manifest.backend,
        "precision": manifest.precision,
        "target": manifest.target,
        "size_bytes": sum(f.size_bytes for f in manifest.files),
        "seconds": seconds,
        "parity": max(r.parity.max_relative for r in manifest.engines.values() if r.parity),
    }
