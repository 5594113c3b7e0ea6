"""Safetensors by header: where a file's tensors lie, and which rows of one are another layout's; no number is kept."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from hsruntime.adapters.documents import AGAIN, PairError, shown

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
ORIGINAL = "quantised checkpoints are not read; give the original in bf16 or fp16"
DTYPE_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8}
DTYPE_BITS |= {f"{kind}{bits}": bits for kind in "IU" for bits in (8, 16, 32, 64)} | {"BOOL": 8}
HEADER_LIMIT_BYTES = 100_000_000  # the format's own limit
CHUNK_BYTES = 1 << 22
EXPONENTS = {"F64": 0x7FF << 52, "F32": 0xFF << 23, "BF16": 0xFF << 7, "F16": 0x1F << 10}
EXPONENTS |= {"F8_E5M2": 0x1F << 2, "F8_E4M3": 0x7F}
"""The bits that are all set in what is infinite or no number."""
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""The element types of safetensors that weights may have."""


def check_is_safetensors(file: Path) -> None:
    """Refuses GGUF files and pickles by name, and by what they begin with."""
    with file.open("rb") as stream:
        start = stream.read(4)
    if file.suffix == ".gguf" or start == b"GGUF":
        raise PairError(f"{file} is a GGUF file, expected safetensors", ORIGINAL)
    if file.suffix in PICKLES or start == b"PK\x03\x04":
        raise PairError(
            f"{file} is a pickle, expected safetensors; pickles are not read",
            "give the safetensors file, or convert it where you trust its maker",
        )


@dataclass(frozen=True)
class TensorHeader:
    """One tensor: its bytes are those of `pieces`, one after the other, each an offset in the file and a size."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    pieces: tuple[tuple[int, int], ...]

    @property
    def elements(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Of all pieces."""
        return sum(size for _, size in self.pieces)

    @property
    def end(self) -> int:
        """Where the last of its bytes lies in the file, and one more."""
        return max(offset + size for offset, size in self.pieces)


def file_headers(file: Path) -> Iterable[TensorHeader]:
    """The tensors of one safetensors file, each inside the file's bytes."""
    header, start = read_header(file)
    tensors = [tensor_header(file, start, name, entry) for name, entry in header.items() if name != "__metadata__"]
    expected = max((tensor.end for tensor in tensors), default=start)
    check_size(file, expected)
    check_as_library(file)
    return tensors


def check_as_library(file: Path) -> None:
    """Refuses what the format's own library refuses: overlaps, holes, names twice, bytes behind the last tensor."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np"):
            pass
    except SafetensorError as err:
        raise PairError(f"{file} is not a safetensors file: {err}", AGAIN) from err


def read_header(file: Path) -> tuple[dict[str, Any], int]:
    """The JSON header and the offset at which data starts."""
    with file.open("rb") as stream:
        prefix = stream.read(8)
        if prefix == b"version ":  # "version https://git-lfs.github.com/spec/v1"
            raise PairError(f"{file} is a git-lfs pointer, not weights", f"run git lfs pull in {file.parent}")
        length = int.from_bytes(prefix, "little")
        check_size(file, 8)
        if length > HEADER_LIMIT_BYTES:
            raise PairError(f"{file} is not a safetensors file: its header would be {length} bytes long", AGAIN)
        check_size(file, 8 + length)
        raw = stream.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as err:
        raise PairError(f"{file} is not a safetensors file: its header is not JSON ({err})", AGAIN) from err
    if not isinstance(header, dict):
        raise PairError(f"{file} is not a safetensors file: its header is not an object", AGAIN)
    return header, 8 + length


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, if no name stands in it twice: readers do not agree which of the two counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def tensor_header(file: Path, start: int, name: str, entry: Any) -> TensorHeader:
    """One entry of a file's header, checked for contradictions."""
    try:
        dtype, shape = str(entry["dtype"]), tuple(operator.index(length) for length in entry["shape"])
        begin, end = map(operator.index, entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as err:
        raise PairError(f"{file}: tensor {name} has a broken header entry: {shown(entry)}", AGAIN) from err
    if any(not 0 <= number < 2**63 for number in (*shape, begin, end)):
        raise PairError(f"{file}: tensor {name} has a broken header entry: {shown(entry)}", AGAIN)
    expected = math.prod(shape) * DTYPE_BITS.get(dtype, 0) // 8
    if begin < 0 or end < begin or (dtype in DTYPE_BITS and end - begin != expected):
        raise PairError(f"{file}: tensor {name} {dtype}{list(shape)} has {end - begin} bytes, not {expected}", AGAIN)
    return TensorHeader(name, dtype, shape, file, ((start + begin, end - begin),))


def check_size(file: Path, expected: int) -> None:
    """Refuses a file shorter than its own header says."""
    found = file.stat().st_size
    if found < expected:
        raise PairError(f"{file} is truncated: expected at least {expected} bytes, found {found}", AGAIN)


def check_finite(header: TensorHeader, data: bytes | np.ndarray) -> None:
    """Refuses a part of a tensor's bytes that holds numbers that are not finite. Raises PairError."""
    mask = EXPONENTS.get(header.dtype)
    if mask is None:
        return
    width = DTYPE_BITS[header.dtype] // 8
    bits = np.frombuffer(data, np.dtype(f"<u{width}"))
    mask = bits.dtype.type(mask)
    count = np.count_nonzero((bits & mask) == mask)
    if count:
        raise PairError(
            f"{header.file}: tensor {header.name} holds {count} numbers that are not finite",
            "the weights are damaged, or were saved from a training run that failed; download or save them again",
        )


def chunks_of(header: TensorHeader, chunk_bytes: int = CHUNK_BYTES) -> Iterable[bytes]:
    """A tensor's bytes, a few megabytes at a time."""
    with header.file.open("rb") as stream:
        for offset, size in header.pieces:
            stream.seek(offset)
            for done in range(0, size, chunk_bytes):
                yield stream.read(min(chunk_bytes, size - done))


def read_bytes(header: TensorHeader) -> np.ndarray:
    """All of a tensor's bytes. Read, not mapped: pages of a mapped file count as this process's until they go."""
    pieces = [np.fromfile(header.file, np.uint8, size, offset=offset) for offset, size in header.pieces]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


@dataclass(frozen=True)
class Place:
    """Of `source`'s rows, cut into `parts` equal ranges, those in `order`, one after the other."""

    source: str
    parts: int = 1
    order: tuple[int, ...] = (0,)

    def taken_from(self, header: TensorHeader, name: str) -> TensorHeader:
        """The tensor that lies here, under its own name; its source's rows can be cut evenly."""
        ((offset, size_bytes),) = header.pieces
        rows = header.shape[0] if header.shape else 1
        part_bytes = size_bytes // self.parts
        return replace(
            header,
            name=name,
            shape=(len(self.order) * (rows // self.parts), *header.shape[1:]) if header.shape else (),
            pieces=tuple((offset + number * part_bytes, part_bytes) for number in self.order),
        )


def numbers_of(header: TensorHeader) -> np.ndarray:
    """A tensor as it is, in the type that the file has it in, bfloat16 as ml_dtypes'.

    Raises PairError for a type that no network has (quantised checkpoints).
    """
    if header.dtype not in DTYPES:
        raise PairError(
            f"{header.file}: tensor {header.name} is {header.dtype}, expected one of {', '.join(DTYPES)}",
            "quantised checkpoints are not read; give the original",
        )
    return read_bytes(header).view(DTYPES[header.dtype]).reshape(header.shape)
