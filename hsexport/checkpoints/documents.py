"""JSON and text files of a model directory, and what libraries read of it, with faults told by file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hsengines.errors import first_line
from hsruntime.adapters.documents import AGAIN, PairError, number, read_document, read_text, shown

__all__ = [
    "AGAIN",
    "MOST",
    "PairError",
    "in_few_words",
    "number",
    "read_config",
    "read_document",
    "read_text",
    "shown",
    "told_by_folder",
    "whole_number",
]

NAMES_SHOWN = 3
MOST = 2**20
"""Of a whole number in a configuration: layers, heads, widths, positions, noise levels."""


def read_config(path: Path, file_name: str, class_name: str, hint: str = "") -> dict[str, Any]:
    """The settings in `path/file_name`, which must belong to `class_name`."""
    raw = read_document(path / file_name)
    found = raw.get("_class_name")
    if found != class_name:
        raise PairError(f"{path} is a {found or 'model of unnamed class'}, expected {class_name}", hint)
    return raw


def whole_number(raw: Mapping[str, Any], key: str, where: Path | str, hint: str = "") -> int:
    """`raw[key]`, which must be a whole number from 1 to MOST; `where` it stands."""
    value = raw.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PairError(f"{where} has {key} {shown(value)}, expected a whole number above zero", hint)
    if value > MOST:
        raise PairError(f"{where} has {key} {shown(value)}, expected {MOST} or less", hint)
    return value


@contextmanager
def told_by_folder(folder: Path) -> Iterator[None]:
    """Turns whatever a library says of the files in `folder` into a PairError; missing packages and disks pass."""
    try:
        yield
    except (PairError, ImportError, MemoryError):
        raise
    except Exception as err:  # tokenizers raises Exception itself, safetensors a direct child
        if isinstance(err, OSError) and err.errno is not None:
            raise
        raise PairError(f"{folder} cannot be loaded: {first_line(err)}", AGAIN) from err


def in_few_words(names: list[str]) -> str:
    """`a, b, c and 4 more`."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
