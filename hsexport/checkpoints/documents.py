"""JSON and text files of a model directory, and what libraries read of it, with faults told by file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hsengines.errors import HSError, first_line

AGAIN = "download or save the model again"
NAMES_SHOWN = 3


class PairError(HSError):
    """A member of the pair cannot be read, or the two do not belong together."""


MOST_BYTES = 256 * 2**20
"""Of a JSON or text file; the largest in use, tokenizers, have some 20 MB."""
MOST = 2**20
"""Of a whole number in a configuration: layers, heads, widths, positions, noise levels."""


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
