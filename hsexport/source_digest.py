"""A digest of the code that shapes a graph: editing it must not leave stale exports behind."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

ROOMS = ("mmdit", "steps", "encoders", "export", "passes")


@cache
def source_digest() -> str:
    """sha256 over the source of the rooms that decide what ONNX comes out."""
    here = Path(__file__).parent
    files = sorted(file for room in ROOMS for file in (here / room).glob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(here)}\0".encode() + file.read_bytes())
    return digest.hexdigest()
