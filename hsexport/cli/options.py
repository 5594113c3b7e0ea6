"""Option values that need reading."""

from __future__ import annotations

import math
from pathlib import Path

import typer

from hsexport.weights.adapter import AdapterRequest


def size_from_text(text: str) -> tuple[int, int]:
    """`1024x768` as (width, height). Raises typer.BadParameter, which is a usage error."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise typer.BadParameter(f"'{text}' is not a size; write WIDTHxHEIGHT, for example 1024x768")
    return int(width), int(height)


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
