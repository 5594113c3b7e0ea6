"""`hsexport plan`: works without torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from hsengines.backend import BuildOptions, backend_names
from hsexport.build.recipe import BuildRequest, RecipeError
from hsexport.cli.build import default_cache
from hsexport.cli.options import MaxPixels, MinPixels, Pixels, optional_size

LOG_WIDTH = 150  # where no terminal tells its own


def plan(
    large: Annotated[str, typer.Option(help="diffusers directory, single-file checkpoint, hub id, or 'demo'")],
    small: Annotated[str, typer.Option(help="the same; a transformer alone is enough if the other is whole")],
    out: Annotated[Path, typer.Option(help="where the bundle would go")] = Path("bundle"),
    backend: Annotated[str, typer.Option(help=f"one of {', '.join(backend_names())}")] = "ort-cpu",
    precision: Annotated[
        Literal["fp32", "fp16", "bf16"] | None, typer.Option(help="default: fp32 on a CPU, bf16 on a GPU")
    ] = None,
    fp32: Annotated[
        list[str] | None, typer.Option(metavar="[NETWORK:]MODULES", help="what stays fp32, as for build")
    ] = None,
    size: Pixels = None,
    min_size: MinPixels = None,
    max_size: MaxPixels = None,
    max_batch: Annotated[int, typer.Option(help="pictures at once")] = 4,
    schedule: Annotated[str, typer.Option(help="a preset or segments")] = "hybridstitch",
    steps: Annotated[int | None, typer.Option(help="of a preset; 28 if left out")] = None,
    guidance_scale: Annotated[float, typer.Option(help="classifier-free guidance; 1 and less halves the rows")] = 3.5,
    without_t5: Annotated[bool, typer.Option("--without-t5", help="as for build")] = False,
    weight_streaming: Annotated[bool, typer.Option("--weight-streaming", help="as for build")] = False,
    gpu: Annotated[
        str | None, typer.Option(help="what it shall run on: h100, a100, l40s, l4, rtx4090, rtx5090, rtxpro6000, orin")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="as for build", envvar="HSEXPORT_CACHE")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print everything for scripts")] = False,
) -> None:
    """Tell what a build and its pictures will need, without loading anything: disk, memory, operations, time.

    Of a hub id configurations and headers alone are downloaded.
    """
    from hsexport.cli.plan_tables import print_plan, told
    from hsexport.plan.gpus import gpu_named
    from hsexport.plan.plan import plan_for

    on_gpu = gpu_named(gpu) if gpu else None
    request = BuildRequest(
        large=large,
        small=small,
        out=out,
        cache=cache or default_cache(),
        backend=backend,
        options=BuildOptions(precision=_precision(backend, precision), weight_streaming=weight_streaming),
        fp32=tuple(fp32 or ()),
        size=optional_size(size),
        min_size=optional_size(min_size),
        max_size=optional_size(max_size),
        max_batch=max_batch,
        schedule=schedule,
        steps=steps,
        guidance_scale=guidance_scale,
        without_t5=without_t5,
    )
    made = plan_for(request, on_gpu)
    if as_json:
        typer.echo(json.dumps(told(made), indent=2))
        return
    print_plan(Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH), made)


def _precision(backend: str, wanted: str | None) -> str:
    """The backend's default, known without loading it: what it builds with need not be installed here."""
    if backend not in backend_names():
        raise RecipeError(f"there is no backend '{backend}'", f"choose one of {', '.join(backend_names())}")
    if backend == "ort-cpu" and wanted not in (None, "fp32"):
        raise RecipeError(f"backend 'ort-cpu' runs fp32, not {wanted}", "name another --backend")
    return wanted or ("fp32" if backend == "ort-cpu" else "bf16")
