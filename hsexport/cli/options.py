"""Option values that need reading."""

from __future__ import annotations

import typer


def size_from_text(text: str) -> tuple[int, int]:
    """`1024x768` as (width, height). Raises typer.BadParameter, which is a usage error."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise typer.BadParameter(f"'{text}' is not a size; write WIDTHxHEIGHT, for example 1024x768")
    return int(width), int(height)
