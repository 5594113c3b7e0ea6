"""`hsexport build`."""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer
from rich.console import Console

from hsengines.backend import backend_names
from hsexport.cli.options import size_from_text
from hsexport.cli.report import BuildReport
from hsexport.recipe import BuildRequest

Pixels = Annotated[str | None, typer.Option(metavar="WxH", help="in pixels; default: what large was trained at")]


def build(
    large: Annotated[str, typer.Option(help="diffusers directory, hub id, or 'demo'")],
    small: Annotated[str, typer.Option(help="the same; a transformer alone is enough if the other is whole")],
    out: Annotated[Path, typer.Option(help="the bundle to write; a bundle already there is replaced")],
    backend: Annotated[str, typer.Option(help=f"one of {', '.join(backend_names())}")] = "ort-cpu",
    precision: Annotated[str, typer.Option(help="fp32 on ort-cpu")] = "fp32",
    size: Pixels = None,
    min_size: Annotated[str | None, typer.Option(metavar="WxH", help="default: half of --size")] = None,
    max_size: Annotated[str | None, typer.Option(metavar="WxH", help="default: half as much again as --size")] = None,
    max_batch: Annotated[int, typer.Option(help="pictures at once")] = 4,
    schedule: Annotated[str, typer.Option(help="the bundle's default: a preset or segments")] = "hybridstitch",
    steps: Annotated[int | None, typer.Option(help="default steps of presets; 28 if left out")] = None,
    guidance_scale: Annotated[float, typer.Option(help="default classifier-free guidance")] = 3.5,
    cache: Annotated[
        Path | None, typer.Option(help="where finished products are kept", envvar="HSEXPORT_CACHE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print a summary for scripts")] = False,
) -> None:
    """Build a bundle from a pair: load, export, compile, verify, pack.

    Killed anywhere, the same command goes on where it was.
    """
    from hsexport.build import build as build_bundle
    from hsexport.quiet import hush_libraries

    request = BuildRequest(
        large=large,
        small=small,
        out=out,
        cache=cache or default_cache(),
        backend=backend,
        precision=precision,
        size=size_from_text(size) if size else None,
        min_size=size_from_text(min_size) if min_size else None,
        max_size=size_from_text(max_size) if max_size else None,
        max_batch=max_batch,
        schedule=schedule,
        steps=steps,
        guidance_scale=guidance_scale,
    )
    start = perf_counter()
    with BuildReport("what is finished is kept, the same command goes on from there") as report, hush_libraries():
        bundle = build_bundle(request, report)
    seconds, size_bytes = perf_counter() - start, sum(f.size_bytes for f in bundle.manifest.files)
    if as_json:
        worst = max(r.parity.max_relative for r in bundle.manifest.engines.values() if r.parity)
        typer.echo(json.dumps({"bundle": str(out), "size_bytes": size_bytes, "seconds": seconds, "parity": worst}))
    else:
        Console(stderr=True, highlight=False).print(f"built {out}: {size_bytes / 1e6:.1f} MB in {seconds:.0f} s")


def default_cache() -> Path:
    """The user's cache folder, as the platform has it."""
    from platformdirs import user_cache_path

    return user_cache_path("hsexport")
