"""Files that TensorRT's caches lie in: read if they are there, replaced in one go."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any


def read_if_there(path: Path) -> bytes:
    """The file's bytes, none if it cannot be read: a cache is never worth an error."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def replace_file(path: Path, content: Any) -> None:
    """Writes a buffer beside `path` and renames, so that a reader sees the old bytes or the new. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
