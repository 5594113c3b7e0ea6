"""JSON and text files of a model directory, read with faults told by file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import PairError


def read_document(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; PairError when the file is missing or holds anything else."""
    text = read_text(path)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise PairError(f"{path} is not JSON: {err}", "download or save the model again") from err
    if not isinstance(document, dict):
        raise PairError(f"{path} holds a {type(document).__name__}, expected an object of settings")
    return document


def read_text(path: Path) -> str:
    """The text in `path`; PairError when the file is missing or is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as err:
        raise PairError(f"{path} cannot be read: {err.strerror or err}", "is the model directory complete?") from err
    except UnicodeDecodeError as err:
        raise PairError(f"{path} is not UTF-8 text: {err}", "download or save the model again") from err


def setting_of(part: Path, key: str, default: int | None = None) -> int:
    """A whole number above zero out of a text encoder's config.json."""
    value = read_document(part / "config.json").get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PairError(
            f"{part}/config.json has {key} {value!r}, expected a whole number above zero",
            "is it SD3's text encoder?",
        )
    return value
