"""GGUF files by header: tensors of ggml's types, each dequantised when it is looked at; nothing is mapped or kept."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hsexport.checkpoints.documents import AGAIN, PairError, shown
from hsexport.checkpoints.gguf_header import ALIGNMENT, ARCHITECTURE, ORIGINAL_SHAPE, broken, read_gguf_header
from hsruntime.adapters.headers import DTYPE_BITS, TensorHeader, check_finite, read_bytes

PLAIN = {0: "F32", 1: "F16", 30: "BF16", 28: "F64", 24: "I8", 25: "I16", 26: "I32", 27: "I64"}
"""ggml's types that safetensors has, too, by its names."""
QUANTISED = {2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K"}
QUANTISED |= {14: "Q6_K", 20: "IQ4_NL", 23: "IQ4_XS"}
BLOCKS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "Q4_0": (32, 18, (0,)),
    "Q4_1": (32, 20, (0, 2)),
    "Q5_0": (32, 22, (0,)),
    "Q5_1": (32, 24, (0, 2)),
    "Q8_0": (32, 34, (0,)),
    "Q2_K": (256, 84, (80, 82)),
    "Q3_K": (256, 110, (108,)),
    "Q4_K": (256, 144, (0, 2)),
    "Q5_K": (256, 176, (0, 2)),
    "Q6_K": (256, 210, (208,)),
    "IQ4_NL": (32, 18, (0,)),
    "IQ4_XS": (256, 136, (0,)),
}
"""How many numbers a block of each type holds, in how many bytes, and where in these its fp16 factors lie."""


def gguf_headers(file: Path, architectures: Collection[str] | None) -> list[TensorHeader]:
    """The tensors of a GGUF file, each inside the file's bytes; shapes are in numpy's order, types by their names.

    It may be of one of `architectures` (None: any), or say nothing of it. Raises PairError.
    """
    known, entries, end = read_gguf_header(file)
    found = known.get(ARCHITECTURE)
    if architectures is not None and found is not None and found not in architectures:
        raise PairError(
            f"{file} is a model of architecture {shown(found)}, expected {' or '.join(architectures)}",
            "give a GGUF file of that architecture, or the original in safetensors",
        )
    if len({name for name, *_ in entries}) != len(entries):
        raise broken(file, "two of its tensors have one name")
    alignment = _alignment(file, known)
    start = -(-end // alignment) * alignment
    headers = [_tensor_header(file, start, known, *entry) for entry in entries]
    _check_places(file, start, alignment, headers)
    return headers


def _alignment(file: Path, known: dict[str, Any]) -> int:
    alignment = known.get(ALIGNMENT, 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 2**20 or alignment & (alignment - 1):
        raise broken(file, f"its alignment is {shown(alignment)}, expected a power of two")
    return alignment


def _tensor_header(
    file: Path, start: int, known: dict[str, Any], name: str, shape: tuple[int, ...], kind: int, offset: int
) -> TensorHeader:
    dtype = PLAIN.get(kind) or QUANTISED.get(kind)
    if dtype is None:
        raise PairError(
            f"{file}: tensor {name} is {_name_of(kind)}, expected one of F32, F16, BF16, {', '.join(BLOCKS)}",
            "give a file in one of these types",
        )
    elements = math.prod(shape)
    if not 0 < elements < 2**48:
        raise broken(file, f"tensor {name} is {list(shape)}")
    numbers, size, _ = BLOCKS[dtype] if dtype in BLOCKS else (1, DTYPE_BITS[dtype] // 8, ())
    if shape[-1] % numbers:
        told = f"tensor {name} has rows of {shape[-1]} numbers, {dtype} has blocks of {numbers}"
        raise broken(file, told)
    original = known.get(ORIGINAL_SHAPE + name, shape)
    if original != shape and not _is_shape_of(original, elements):
        raise broken(file, f"tensor {name} is {list(shape)} and would have been {shown(original)}")
    return TensorHeader(name, dtype, tuple(original), file, ((start + offset, elements // numbers * size),))


def _is_shape_of(value: Any, elements: int) -> bool:
    numbers = isinstance(value, list) and all(type(extent) is int and extent > 0 for extent in value)
    return numbers and math.prod(value) == elements


def _name_of(kind: int) -> str:
    """What ggml calls a type that is not read here."""
    from gguf import GGMLQuantizationType

    try:
        return str(GGMLQuantizationType(kind).name)
    except ValueError:
        return f"of an unknown type ({kind})"


def _check_places(file: Path, start: int, alignment: int, headers: list[TensorHeader]) -> None:
    """Refuses numbers beyond the file's end, at odd places, and in one another's."""
    size, before = file.stat().st_size, start
    for header in sorted(headers, key=lambda header: header.pieces):
        ((offset, _),) = header.pieces
        if header.end > size:
            raise PairError(
                f"{file} is truncated: tensor {header.name} ends at byte {header.end}, the file has {size}", AGAIN
            )
        if (offset - start) % alignment or offset < before:
            raise broken(file, f"tensor {header.name} begins at byte {offset}, where no tensor can begin")
        before = header.end


def check_blocks(header: TensorHeader, data: bytes | np.ndarray) -> None:
    """Refuses whole blocks of a tensor whose factors are not finite. Raises PairError."""
    _, size, factors = BLOCKS[header.dtype]
    blocks = np.frombuffer(data, np.uint8).reshape(-1, size)
    for place in factors:
        check_finite(replace(header, dtype="F16"), np.ascontiguousarray(blocks[:, place : place + 2]).reshape(-1))


def dequantised(header: TensorHeader) -> np.ndarray:
    """The numbers of a tensor of blocks as float32, read now."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    size = BLOCKS[header.dtype][1]
    data = read_bytes(header)
    rows = header.shape[0] if data.size % (header.shape[0] * size) == 0 else 1
    found: np.ndarray = dequantize(data.reshape(rows, -1), GGMLQuantizationType[header.dtype])
    return found.reshape(header.shape)


def int8_blocks(header: TensorHeader) -> tuple[np.ndarray, np.ndarray]:
    """Of a Q8_0 matrix (N, K) the int8 numbers (N, K) and the float32 factor of each block (N, K/32)."""
    numbers, size, _ = BLOCKS["Q8_0"]
    rows, columns = header.shape
    blocks = read_bytes(header).reshape(-1, size)
    factors = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    values = np.ascontiguousarray(blocks[:, 2:]).view(np.int8)
    return values.reshape(rows, columns), factors.reshape(rows, columns // numbers)
