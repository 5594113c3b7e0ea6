"""`hsexport build`."""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer
from rich.console import Console

from hsengines.backend import BuildOptions, backend_names, get_backend
from hsexport.build.recipe import BuildRequest, StopAfter
from hsexport.cli.options import MaxPixels, MinPixels, Pixels, adapter_from_text, optional_size
from hsexport.cli.report import BuildReport
from hsruntime.bundle.reader import Bundle

TENSORRT, RTX = "TensorRT", "TensorRT and TensorRT-RTX"


def build(
    large: Annotated[str, typer.Option(help="diffusers directory, single-file checkpoint, hub id, or 'demo'")],
    small: Annotated[str, typer.Option(help="the same; a transformer alone is enough if the other is whole")],
    out: Annotated[Path, typer.Option(help="the bundle to write; a bundle already there is replaced")],
    backend: Annotated[str, typer.Option(help=f"one of {', '.join(backend_names())}")] = "ort-cpu",
    precision: Annotated[
        str | None, typer.Option(metavar="fp32|fp16|bf16", help="default: fp32 on a CPU, bf16 on a GPU")
    ] = None,
    fp32: Annotated[
        list[str] | None,
        typer.Option(metavar="[NETWORK:]MODULES", help="keep these in fp32 too: 'large:transformer_blocks.35*'"),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="[small=]FILE[:SCALE]", help="fuse a LoRA into large, or into small; repeat it for more"),
    ] = None,
    size: Pixels = None,
    min_size: MinPixels = None,
    max_size: MaxPixels = None,
    max_batch: Annotated[int, typer.Option(help="pictures at once")] = 4,
    schedule: Annotated[str, typer.Option(help="the bundle's default: a preset or segments")] = "hybridstitch",
    steps: Annotated[int | None, typer.Option(help="default steps of presets; 28 if left out")] = None,
    guidance_scale: Annotated[float, typer.Option(help="default classifier-free guidance")] = 3.5,
    without_t5: Annotated[
        bool, typer.Option("--without-t5", help="leave T5 out: a smaller bundle that follows long prompts less closely")
    ] = False,
    arch: Annotated[
        list[int] | None,
        typer.Option(help="compute capability to build for, 89 or 120; repeat it for several", rich_help_panel=RTX),
    ] = None,
    weight_streaming: Annotated[
        bool, typer.Option("--weight-streaming", help="engines larger than the GPU's memory", rich_help_panel=RTX)
    ] = False,
    workspace: Annotated[int | None, typer.Option(help="scratch memory in MiB", rich_help_panel=TENSORRT)] = None,
    aux_streams: Annotated[
        int, typer.Option(help="streams an engine may use beside its own", rich_help_panel=TENSORRT)
    ] = 0,
    hardware: Annotated[
        str, typer.Option(metavar="same|capability|ampere", help="GPUs to run on", rich_help_panel=TENSORRT)
    ] = "same",
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="for later versions, too", rich_help_panel=TENSORRT)
    ] = False,
    strip: Annotated[
        bool, typer.Option("--strip", help="plans without weights, put back on loading", rich_help_panel=TENSORRT)
    ] = False,
    stop_after: Annotated[
        StopAfter | None, typer.Option(help="stop there; the cache keeps what is done, and no bundle is written")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="where finished products are kept", envvar="HSEXPORT_CACHE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print a summary for scripts")] = False,
) -> None:
    """Build a bundle from a pair: load, export, optimise, compile, verify, pack.

    Killed anywhere, the same command goes on where it was.
    """
    from hsexport.build.build import build as build_bundle
    from hsexport.build.quiet import hush_libraries

    kept = cache or default_cache()
    options = BuildOptions(
        precision=precision or get_backend(backend).precisions[0],
        architectures=tuple(sorted(set(arch or ()))),
        workspace_mb=workspace,
        aux_streams=aux_streams,
        hardware=hardware,
        version_compatible=version_compatible,
        weight_streaming=weight_streaming,
        stripped=strip,
        timing_cache=kept / "timing" if backend == "tensorrt" else None,
    )
    request = BuildRequest(
        large=large,
        small=small,
        out=out,
        cache=kept,
        backend=backend,
        options=options,
        fp32=tuple(fp32 or ()),
        lora=tuple(map(adapter_from_text, lora or ())),
        stop_after=stop_after,
        size=optional_size(size),
        min_size=optional_size(min_size),
        max_size=optional_size(max_size),
        max_batch=max_batch,
        schedule=schedule,
        steps=steps,
        guidance_scale=guidance_scale,
        without_t5=without_t5,
    )
    start = perf_counter()
    with BuildReport("what is finished is kept, the same command goes on from there") as report, hush_libraries():
        bundle = build_bundle(request, report)
    seconds = perf_counter() - start
    if as_json:
        stopped = {"stopped_after": stop_after, "cache": str(kept), "seconds": seconds}
        typer.echo(json.dumps(_summary(bundle, seconds) if bundle else stopped))
    else:
        Console(stderr=True, highlight=False).print(f"{_done(bundle, request)} in {seconds:.0f} s", soft_wrap=True)


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


def default_cache() -> Path:
    """The user's cache folder, as the platform has it."""
    from platformdirs import user_cache_path

    return user_cache_path("hsexport")
