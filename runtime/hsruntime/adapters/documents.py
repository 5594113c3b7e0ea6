"""JSON and text files beside weights, with faults told by file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hsengines.errors import HSError

AGAIN = "download or save the model again"
MOST_BYTES = 256 * 2**20
"""Of a JSON or text file; the largest in use, tokenizers, have some 20 MB."""


class PairError(HSError):
    """A file of a pair or for it cannot be read, or is not of what it is given with."""


def read_document(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; PairError when the file is missing or holds anything else."""
    text = read_text(path)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise PairError(f"{path} is not JSON: {err}", AGAIN) from err
    if not isinstance(document, dict):
        raise PairError(f"{path} holds a {type(document).__name__}, expected an object of settings")
    return document


def read_text(path: Path) -> str:
    """The text in `path`; PairError when the file is missing, no plain file, too large, or not text."""
    try:
        if path.exists() and not path.is_file():
            raise PairError(f"{path} is not a plain file", "is the model directory complete?")
        size_bytes = path.stat().st_size
        if size_bytes > MOST_BYTES:
            raise PairError(f"{path} has {size_bytes} bytes, allowed are {MOST_BYTES}", "is it the file it says it is?")
        return path.read_text(encoding="utf-8")
    except OSError as err:
        raise PairError(f"{path} cannot be read: {err.strerror or err}", "is the model directory complete?") from err
    except UnicodeDecodeError as err:
        raise PairError(f"{path} is not UTF-8 text: {err}", AGAIN) from err


def number(raw: Mapping[str, Any], key: str, path: Path, least: float = -1e6, most: float = 1e6) -> float:
    """`raw[key]` as a float from `least` to `most`."""
    value = raw[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise PairError(f"{path} has {key} {shown(value)}, expected a number from {least:g} to {most:g}")
    return float(value)


def shown(value: object) -> str:
    """A value from a file, cut to what a line can hold."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no whole number of more than 4300 digits
        return "a whole number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
