"""What stands before the numbers of a GGUF file: facts by key, and where each tensor lies.

Not read by the gguf package, whose reader maps the whole file and counts as far as the file says.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

from hsexport.checkpoints.documents import AGAIN, PairError, shown
from hsruntime.adapters.headers import HEADER_LIMIT_BYTES

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_ENTRIES = 2**20
"""Of a file or an array in its header; the largest vocabularies have a quarter of it."""
MOST_TEXT_BYTES = 2**16
MOST_EXTENTS = 4  # ggml's own limit
SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
"""Kinds of values in a header -> what struct calls them."""
TEXT, ARRAY = 8, 9
ARCHITECTURE, ALIGNMENT = "general.architecture", "general.alignment"
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""Before a tensor's name: its shape, where the one in the file was made to fit blocks."""
Entry = tuple[str, tuple[int, ...], int, int]
"""A tensor's name, its shape in numpy's order, its type's number, and where it begins among the numbers."""


def is_gguf(file: Path) -> bool:
    """By its name, or by what it begins with."""
    with file.open("rb") as stream:
        return file.suffix == ".gguf" or stream.read(len(MAGIC)) == MAGIC


def read_gguf_header(file: Path) -> tuple[dict[str, Any], list[Entry], int]:
    """Facts by key, None for those that nobody asks for; the tensors; where the header ends. Raises PairError."""
    with file.open("rb") as stream:
        header = _Stream(file, stream)
        tensors, values = header.count("tensors"), header.count("facts")
        known = header.facts(values)
        return known, [header.tensor() for _ in range(tensors)], stream.tell()


def broken(file: Path, told: str) -> PairError:
    """What is wrong with a file."""
    return PairError(f"{file} is a broken GGUF file: {told}", AGAIN)


class _Stream:
    """What is yet to be read of a header; nothing is taken beyond the file's end, however much it asks for."""

    def __init__(self, file: Path, stream: BinaryIO) -> None:
        self.file, self.stream = file, stream
        self.end = min(file.stat().st_size, HEADER_LIMIT_BYTES)
        start = stream.read(len(MAGIC))
        if start == b"vers":  # "version https://git-lfs.github.com/spec/v1"
            raise PairError(f"{file} is a git-lfs pointer, not weights", f"run git lfs pull in {file.parent}")
        if start != MAGIC:
            raise PairError(f"{file} is not a GGUF file: it begins with {start!r}", AGAIN)
        version = self.number("I")
        if version not in VERSIONS:
            raise PairError(f"{file} is GGUF of version {version}, expected 2 or 3", "convert it again")

    def take(self, size: int) -> bytes:
        self.check_there(size)
        return self.stream.read(size)

    def skip(self, size: int) -> None:
        self.check_there(size)
        self.stream.seek(size, 1)

    def check_there(self, size: int) -> None:
        left = self.end - self.stream.tell()
        if size > left:
            raise PairError(f"{self.file} is truncated: its header needs {size} bytes more, {left} are there", AGAIN)

    def number(self, kind: str) -> Any:
        (value,) = struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))
        return value

    def count(self, what: str) -> int:
        number = int(self.number("Q"))
        if number > MOST_ENTRIES:
            raise broken(self.file, f"it would have {number} {what}")
        return number

    def text(self) -> str:
        length = self.number("Q")
        if length > MOST_TEXT_BYTES:
            raise broken(self.file, f"a name in it would have {length} bytes")
        name = self.take(length).decode("utf-8", "replace")
        if not name.isprintable() or "\ufffd" in name:  # it is told in a line
            raise broken(self.file, "a name in it is not text")
        return name

    def facts(self, count: int) -> dict[str, Any]:
        """What is wanted of the file's facts, by key; vocabularies and the like are passed over."""
        known: dict[str, Any] = {}
        for _ in range(count):
            key = self.text()
            if key in known:
                raise broken(self.file, f"{shown(key)} stands there twice")
            known[key] = self.value(key, self.number("I"))
        return known

    def value(self, key: str, kind: int) -> Any:
        wanted = key in (ARCHITECTURE, ALIGNMENT) or key.startswith(ORIGINAL_SHAPE)
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == TEXT:
            return self.text() if wanted else self.skip(self.number("Q"))
        inner = self.number("I") if kind == ARRAY else None
        if inner not in SCALARS and inner != TEXT:
            raise broken(self.file, f"{shown(key)} is of a type that GGUF does not have")
        count = self.count(f"entries in {shown(key)}")
        if inner == TEXT:
            for _ in range(count):
                self.skip(self.number("Q"))
            return None
        if wanted and count <= MOST_EXTENTS:
            return [self.number(SCALARS[inner]) for _ in range(count)]
        return self.skip(count * struct.calcsize(f"<{SCALARS[inner]}"))

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """A tensor's name, its shape in numpy's order, its type's number, and where it begins among the numbers."""
        name, count = self.text(), self.number("I")
        if not 1 <= count <= MOST_EXTENTS:
            raise broken(self.file, f"tensor {shown(name)} has {count} extents, expected 1 to {MOST_EXTENTS}")
        extents = [self.number("Q") for _ in range(count)]
        return name, tuple(reversed(extents)), self.number("I"), self.number("Q")
