"""The options that `build` and `plan` share: what is to be built, so that a plan is that of the build."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, get_args

import click

from hsengines.backend import BuildOptions
from hsengines.traits import DEFAULT_BACKEND, backend_names, traits_of
from hsexport.build.recipe import BuildRequest, RecipeError, StopAfter
from hsexport.checkpoints.weights.adapter import AdapterRequest
from hsexport.cli.command import FILE, Option, one_of
from hsexport.cli.options import presets, size_from_text

TENSORRT, RTX = "TensorRT", "TensorRT and TensorRT-RTX"


def adapter_from_text(text: str) -> AdapterRequest:
    """`FILE`, `FILE:0.8` or `small=FILE:0.8`. Raises click.BadParameter, which is a usage error."""
    role, mark, rest = text.partition("=")
    if not mark or role not in ("large", "small"):
        role, rest = "large", text
    file, colon, scale = rest.rpartition(":")
    if not colon:
        file, scale = rest, "1"
    try:
        value = float(scale)
    except ValueError:
        value = math.nan
    if not file or not math.isfinite(value):
        raise click.BadParameter(f"'{text}' is not a LoRA with its scale; write FILE, FILE:0.8 or small=FILE:0.8")
    return AdapterRequest("small" if role == "small" else "large", Path(file), value)


def lora(help: str) -> Callable[..., Any]:
    """`--lora`, as often as there are some."""
    return click.option("--lora", metavar="[small=]FILE[:SCALE]", type=adapter_from_text, multiple=True, help=help)


OPTIONS: tuple[Callable[..., Any], ...] = (
    click.option("--large", required=True, help="diffusers directory, single-file checkpoint, hub id, or 'demo'"),
    click.option("--small", required=True, help="the same; a transformer alone is enough if the other is whole"),
    click.option(
        "--backend",
        default=DEFAULT_BACKEND,
        shell_complete=one_of(backend_names),
        help=f"one of {', '.join(backend_names())}",
    ),
    click.option(
        "--precision", type=click.Choice(["fp32", "fp16", "bf16"]), help="default: fp32 on a CPU, bf16 on a GPU"
    ),
    click.option(
        "--fp32",
        metavar="[NETWORK:]MODULES",
        multiple=True,
        help="keep these in fp32 too: 'large:transformer_blocks.35*'",
    ),
    lora("fuse a LoRA into large, or into small; repeat it for more"),
    click.option("--size", metavar="WxH", type=size_from_text, help="in pixels; default: what large was trained at"),
    click.option("--min-size", metavar="WxH", type=size_from_text, help="default: half of --size"),
    click.option("--max-size", metavar="WxH", type=size_from_text, help="default: half as much again as --size"),
    click.option("--max-batch", default=4, help="pictures at once"),
    click.option(
        "--schedule",
        default="hybridstitch",
        shell_complete=presets,
        help="the bundle's default: a preset or segments",
    ),
    click.option("--steps", type=int, help="default steps of presets; 28 if left out"),
    click.option("--guidance-scale", default=3.5, help="default classifier-free guidance"),
    click.option(
        "--without-t5", is_flag=True, help="leave T5 out: a smaller bundle that follows long prompts less closely"
    ),
    click.option(
        "--arch",
        type=int,
        multiple=True,
        cls=Option,
        section=RTX,
        help="compute capability to build for, 89 or 120; repeat it for several",
    ),
    click.option(
        "--weight-streaming", is_flag=True, cls=Option, section=RTX, help="engines larger than the GPU's memory"
    ),
    click.option("--workspace", type=int, cls=Option, section=TENSORRT, help="scratch memory in MiB"),
    click.option(
        "--aux-streams", default=0, cls=Option, section=TENSORRT, help="streams an engine may use beside its own"
    ),
    click.option(
        "--hardware",
        metavar="same|capability|ampere",
        default="same",
        cls=Option,
        section=TENSORRT,
        help="GPUs to run on",
    ),
    click.option("--version-compatible", is_flag=True, cls=Option, section=TENSORRT, help="for later versions, too"),
    click.option(
        "--strip", is_flag=True, cls=Option, section=TENSORRT, help="plans without weights, put back on loading"
    ),
    click.option(
        "--stop-after",
        type=click.Choice(get_args(StopAfter)),
        help="stop there; the cache keeps what is done, and no bundle is written",
    ),
    click.option(
        "--cache", type=FILE, envvar="HSEXPORT_CACHE", show_envvar=True, help="where finished products are kept"
    ),
)
"""In the order in which help shows them; their names are what `request_from` takes."""


def build_request(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a command all of OPTIONS, and hands it the request that they and its own --out make."""
    own = set(signature(function).parameters)

    @wraps(function)
    def with_request(**given: Any) -> None:
        kept = {name: given.pop(name) for name in own & given.keys()}
        function(request_from(**given), **kept)

    for option in reversed(OPTIONS):
        with_request = option(with_request)
    return with_request


def request_from(
    *,
    backend: str,
    precision: str | None,
    arch: tuple[int, ...],
    weight_streaming: bool,
    workspace: int | None,
    aux_streams: int,
    hardware: str,
    version_compatible: bool,
    strip: bool,
    cache: Path | None,
    **asked: Any,
) -> BuildRequest:
    """A request from the options' values; the rest of them are fields of BuildRequest by the same names."""
    kept = cache or default_cache()
    options = BuildOptions(
        precision=_precision(backend, precision),
        architectures=tuple(sorted(set(arch))),
        workspace_mb=workspace,
        aux_streams=aux_streams,
        hardware=hardware,
        version_compatible=version_compatible,
        weight_streaming=weight_streaming,
        stripped=strip,
        timing_cache=kept / "timing" if traits_of(backend).builds_on_gpu else None,
    )
    return BuildRequest(backend=backend, options=options, cache=kept, **asked)


def _precision(backend: str, wanted: str | None) -> str:
    """The backend's default, known without loading it: what it builds with need not be installed here."""
    precisions = traits_of(backend).precisions
    if wanted not in (None, *precisions):
        raise RecipeError(f"backend '{backend}' runs {' or '.join(precisions)}, not {wanted}", "name another --backend")
    return wanted or precisions[0]


def default_cache() -> Path:
    """The user's cache folder, as the platform has it."""
    from platformdirs import user_cache_path

    return user_cache_path("hsexport")
