"""Checkpoints of random weights, written shard by shard: no more than one shard is ever in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from zlib import crc32

import torch
from diffusers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file

SHARD_BYTES = 2**30
Shapes = Mapping[str, tuple[int, ...]]


def drawn(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """A parameter, fp32: matrices keep a signal's size, norms lie around 1, biases off 0; nothing is trivial."""
    noise = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        return noise * noise[0].numel() ** -0.5
    return noise * 0.1 + float("norm" in name and name.endswith("weight"))


@torch.no_grad()
def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Draws every parameter, in order, from one generator; returns the module in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        parameter.copy_(drawn(name, tuple(parameter.shape), generator))
    return module.eval()


def tensors_of(build: Callable[[], torch.nn.Module]) -> dict[str, tuple[int, ...]]:
    """The shapes that a model's checkpoint has by name, without memory for any of them."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}


def write_random(
    folder: Path, shapes: Shapes, dtype: torch.dtype, on_shard: Callable[[int, int], None], limit: int = SHARD_BYTES
) -> None:
    """Fills `folder` with shards and their index; a shard that an earlier run finished is kept.

    Every tensor follows from its name and shape alone. `on_shard` hears of shards done and in all.
    """
    shards = list(_shards(shapes, dtype, limit))
    stem, suffix = SAFETENSORS_WEIGHTS_NAME.split(".")
    placed: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = folder / f"{stem}-{number:05}-of-{len(shards):05}.{suffix}"
        if not file.is_file():
            partial = file.with_suffix(".partial")
            save_file({name: _tensor(name, shapes[name], dtype) for name in names}, partial)
            partial.rename(file)
        placed |= dict.fromkeys(names, file.name)
        on_shard(number, len(shards))
    total = sum(_bytes(shape, dtype) for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index), encoding="utf-8")


def _shards(shapes: Shapes, dtype: torch.dtype, limit: int) -> Iterator[list[str]]:
    """Names in order, cut where a shard would grow beyond `limit` bytes."""
    names: list[str] = []
    filled = 0
    for name, shape in shapes.items():
        size = _bytes(shape, dtype)
        if names and filled + size > limit:
            yield names
            names, filled = [], 0
        names.append(name)
        filled += size
    yield names


def _tensor(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(crc32(f"{name}{shape}".encode()))
    if name == "pos_embed.pos_embed":  # sines and cosines in a real one: as large as those, and no sum over its rows
        return (torch.randn(shape, generator=generator) * 0.5**0.5).to(dtype)
    return drawn(name, shape, generator).to(dtype)


def _bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize
