"""TensorRT's measurements of kernels, kept from one build to the next; TensorRT-RTX measures nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hsengines.files import replace_file


def attach_timing_cache(library: Any, config: Any, path: Path) -> None:
    """Gives the builder what `path` holds; a file of another GPU or version counts as empty."""
    config.set_flag(library.BuilderFlag.EDITABLE_TIMING_CACHE)
    kept = read_if_there(path)
    if not kept or not config.set_timing_cache(config.create_timing_cache(kept), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def save_timing_cache(config: Any, path: Path) -> None:
    """Writes what the builder knows by now. Raises OSError."""
    replace_file(path, memoryview(config.get_timing_cache().serialize()))


def read_if_there(path: Path) -> bytes:
    """The file's bytes, none if it cannot be read: a cache is never worth an error."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
