"""Options that several commands take, and option values that need reading."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from hsexport.checkpoints.weights.adapter import AdapterRequest

Pixels = Annotated[str | None, typer.Option(metavar="WxH", help="in pixels; default: what large was trained at")]
MinPixels = Annotated[str | None, typer.Option(metavar="WxH", help="default: half of --size")]
MaxPixels = Annotated[str | None, typer.Option(metavar="WxH", help="default: half as much again as --size")]
Graphs = Annotated[bool, typer.Option("--graphs/--no-graphs", help="replay steps as CUDA graphs; a CPU has none")]
MemoryCap = Annotated[float | None, typer.Option(help="MiB that tensors may take on the device")]
VaeTile = Annotated[
    int, typer.Option(metavar="PIXELS", help="decode larger pictures in tiles of this side; 0 decodes whole")
]


def size_from_text(text: str) -> tuple[int, int]:
    """`1024x768` as (width, height). Raises typer.BadParameter, which is a usage error."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise typer.BadParameter(f"'{text}' is not a size; write WIDTHxHEIGHT, for example 1024x768")
    return int(width), int(height)


def optional_size(text: str | None) -> tuple[int, int] | None:
    """The same, or None for an option that was left out."""
    return size_from_text(text) if text else None


def adapter_from_text(text: str) -> AdapterRequest:
    """`FILE`, `FILE:0.8` or `small=FILE:0.8`. Raises typer.BadParameter, which is a usage error."""
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
        raise typer.BadParameter(f"'{text}' is not a LoRA with its scale; write FILE, FILE:0.8 or small=FILE:0.8")
    return AdapterRequest("small" if role == "small" else "large", Path(file), value)
