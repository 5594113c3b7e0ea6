"""The options that `build` and `plan` share: what is to be built, so that a plan is that of the build."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, get_args

import click

from hsengines.build import build_options, own_options
from hsengines.choice import AUTO, CPU, fastest_on_cpu, fastest_precision
from hsengines.errors import EngineBuildError
from hsengines.traits import DEFAULT_BACKEND, backend_names
from hsengines.weights import FORMATS, UNQUANTIZED, asked_weights
from hsexport.build.request import BuildRequest, StopAfter
from hsexport.checkpoints.weights.adapter import AdapterRequest
from hsexport.cli.command import FILE, Option, one_of, option_from, with_options
from hsexport.cli.options import presets, size_from_text
from hsexport.families.registry import options_to_leave_out
from hsruntime.facts import MOST_REFERENCES

ALONE = {"none": None, "light": (2, 1)}
"""What --small may be in place of a model, and the blocks that large's light form then keeps."""
OWN = own_options()


def adapter_from_text(text: str) -> AdapterRequest:
    """`FILE`, `FILE:0.8` or `small=FILE:0.8`. Raises click.BadParameter, which is a usage error."""
    from hsruntime.adapters.asked import file_from_text
    from hsruntime.request import RequestError

    try:
        return file_from_text(text)
    except RequestError as err:
        raise click.BadParameter(str(err)) from err


def outer_from_text(text: str) -> tuple[int, int]:
    """`2+1`. Raises click.BadParameter, which is a usage error."""
    first, plus, last = text.partition("+")
    if not (plus and first.isdecimal() and last.isdecimal() and 0 < int(first) < 1000 and 0 < int(last) < 1000):
        raise click.BadParameter(f"'{text}' is no number of first and last blocks; write 2+1 or the like")
    return int(first), int(last)


def weights_from_text(text: str) -> str:
    """The text, if it can be read. Raises click.BadParameter, which is a usage error."""
    try:
        asked_weights(text)
    except EngineBuildError as err:
        raise click.BadParameter(f"{err.message}; {err.hint}") from err
    return text


def lora(help: str) -> Callable[..., Any]:
    """`--lora`, as often as there are some."""
    return click.option("--lora", metavar="[small=]FILE[:SCALE]", type=adapter_from_text, multiple=True, help=help)


OPTIONS: tuple[Callable[..., Any], ...] = (
    click.option(
        "--large",
        required=True,
        shell_complete=FILE.shell_complete,
        help="diffusers directory, single-file checkpoint, hub id, or 'demo'",
    ),
    click.option(
        "--small",
        required=True,
        shell_complete=FILE.shell_complete,
        help="the same; a transformer alone is enough if the other is whole; 'none' for large alone, 'light' for large "
        "and its light form",
    ),
    click.option(
        "--light",
        metavar="FIRST+LAST",
        type=outer_from_text,
        help="a light form of large too, of so many of its first and last blocks; 2+1 with --small light",
    ),
    click.option(
        "--backend",
        default=DEFAULT_BACKEND,
        shell_complete=one_of(lambda: [*backend_names(), CPU]),
        help=f"one of {', '.join(backend_names())}, or '{CPU}' for the fastest that is installed for this one",
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "fp16", "bf16", AUTO]),
        help="default: fp32 on a CPU, bf16 on a GPU; 'auto': bf16 on CPUs that are built for it, too",
    ),
    click.option(
        "--weights",
        metavar="[NETWORK[:MODULE]=]FORMAT,...",
        type=weights_from_text,
        default=UNQUANTIZED,
        help=f"how weights are stored: {', '.join(FORMATS)}; of all networks, or of some: 'text=int8,large=int4'",
    ),
    click.option("--calibration", type=FILE, help="what `hsexport calibrate` measured, for activations in 8 bits"),
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
        "--references",
        type=click.IntRange(0, MOST_REFERENCES),
        help="pictures that one may be drawn after; 1 where the model family knows them, else none",
    ),
    click.option(
        "--schedule",
        shell_complete=presets,
        help="the bundle's default: a preset or segments; hybridstitch, or what there is without small",
    ),
    click.option("--steps", type=int, help="default steps of presets; 28 if left out"),
    click.option(
        "--max-sequence-length",
        type=click.IntRange(1, 512),
        help="tokens of the text encoder that reads most, as in diffusers; as its tokenizer states if left out",
    ),
    click.option("--guidance-scale", default=3.5, help="default classifier-free guidance"),
    *(click.option(f"--without-{name}", is_flag=True, help=told) for name, told in options_to_leave_out()),
    *(option_from(name, schema, cls=Option, section=" and ".join(schema["backends"])) for name, schema in OWN.items()),
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

    return with_options(with_request, OPTIONS)


def request_from(
    *, backend: str, precision: str | None, weights: str, cache: Path | None, **asked: Any
) -> BuildRequest:
    """A request from the options' values; the rest of them are fields of BuildRequest by the same names.

    A backend's own options are passed on where they differ from their default.
    """
    if backend == CPU:
        backend, found, why = fastest_on_cpu()
        precision = found if precision in (None, AUTO) else precision
        click.echo(f"{backend}, {precision}: {why}", err=True)
    elif precision == AUTO:
        precision = fastest_precision(backend)
    if asked["small"] in ALONE:
        asked["light"] = asked["light"] or ALONE[asked["small"]]
        asked["small"] = None
    own = {name: asked.pop(name) for name in OWN}
    told = {name: value for name, value in own.items() if value != OWN[name]["default"]}
    options = build_options(backend, weights=weights, **told, **({"precision": precision} if precision else {}))
    options.check_for(backend)
    without = tuple(name for name, _ in options_to_leave_out() if asked.pop(f"without_{name}"))
    if cache is None:
        from platformdirs import user_cache_path

        cache = user_cache_path("hsexport")
    return BuildRequest(backend=backend, options=options, cache=cache, without=without, **asked)
