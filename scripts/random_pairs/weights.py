"""Checkpoints of random weights, written shard by shard: no more than a block of numbers is ever in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from hsengines.files import left_behind, replace_file, replaced
from hsexport.checkpoints.shards import header_bytes
from random_pairs.noise import pieces_of

SHARD_BYTES = 2**30
SAFETENSORS_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Shard:
    """A file of a checkpoint: `number` counts from 1 to `of`."""

    file: Path
    names: tuple[str, ...]
    number: int
    of: int
    size_bytes: int  # of its tensors


OnShard = Callable[[Shard], None]


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The tensors of a model's checkpoint by name; of tied ones the first, as save_pretrained writes them."""
    seen: set[int] = set()
    shapes = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            shapes[name] = tuple(tensor.shape)
    return shapes


def shards_of(folder: Path, stem: str, shapes: Shapes, dtype: torch.dtype, limit: int = SHARD_BYTES) -> list[Shard]:
    """How a checkpoint is cut into files of about `limit` bytes; one alone has no number in its name."""
    cuts = list(_cuts(shapes, dtype, limit))
    shards = []
    for number, names in enumerate(cuts, start=1):
        mark = f"-{number:05}-of-{len(cuts):05}" if len(cuts) > 1 else ""
        size = sum(_bytes(name, shapes[name], dtype) for name in names)
        shards.append(Shard(folder / f"{stem}{mark}.safetensors", tuple(names), number, len(cuts), size))
    return shards


def write_shards(shards: list[Shard], shapes: Shapes, dtype: torch.dtype, on_shard: OnShard) -> None:
    """Writes the shards and, for several, their index; one that an earlier run finished is kept."""
    for shard in shards:
        if not shard.file.is_file():
            for left in left_behind(shard.file.parent, f".{shard.file.name}.part-"):
                left.unlink()
            with replaced(shard.file) as part:
                _write_file(part, {name: shapes[name] for name in shard.names}, dtype)
        on_shard(shard)
    if len(shards) > 1:
        placed = {name: shard.file.name for shard in shards for name in shard.names}
        index = {"metadata": {"total_size": sum(shard.size_bytes for shard in shards)}, "weight_map": placed}
        stem = shards[0].file.name.partition("-")[0]
        replace_file(shards[0].file.with_name(f"{stem}.safetensors.index.json"), json.dumps(index, indent=2))


def _write_file(path: Path, shapes: Shapes, dtype: torch.dtype) -> None:
    """A safetensors file, piece by piece: the library's own writer holds every tensor twice."""
    with path.open("wb") as stream:
        stream.write(head_of(shapes, dtype))
        for name, shape in shapes.items():
            for piece in pieces_of(name, shape, stored_type(name, dtype)):
                stream.write(memoryview(piece.view(torch.uint8).numpy()))


def stored_type(name: str, dtype: torch.dtype) -> torch.dtype:
    """What a tensor is written in: counts of batches stay whole numbers, as libraries leave them."""
    return torch.int64 if name.endswith("num_batches_tracked") else dtype


def head_of(shapes: Shapes, dtype: torch.dtype) -> bytes:
    """What stands before the numbers in a safetensors file."""
    header: dict[str, dict[str, object]] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + _bytes(name, shape, dtype)
        header[name] = {
            "dtype": SAFETENSORS_NAMES[stored_type(name, dtype)],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
    return header_bytes(header)


def _cuts(shapes: Shapes, dtype: torch.dtype, limit: int) -> Iterator[list[str]]:
    """Names in order, cut where a shard would grow beyond `limit` bytes."""
    names: list[str] = []
    filled = 0
    for name, shape in shapes.items():
        size = _bytes(name, shape, dtype)
        if names and filled + size > limit:
            yield names
            names, filled = [], 0
        names.append(name)
        filled += size
    yield names


def _bytes(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape) * stored_type(name, dtype).itemsize
