"""What networks that every family has compute and hold while they run, counted from their weights' shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

Shapes = Mapping[str, tuple[int, ...]]
Dims = Mapping[str, int]


def middle_of(layers: int, outer: tuple[int, int] | None) -> range:
    """The blocks that a light form of so many layers leaves out; none without `outer`."""
    return range(outer[0], layers - outer[1]) if outer else range(0)


def products(shapes: Shapes, dims: Dims, rows: Mapping[str, tuple[str, ...]], others: tuple[str, ...]) -> int:
    """Of the matrices: over which dimensions each is taken, by how its name begins, or as `others`."""
    total = 0
    for name, shape in shapes.items():
        if len(shape) == 2:
            over = next((each for start, each in rows.items() if name.startswith(start)), others)
            total += 2 * math.prod(shape) * math.prod(dims[dim] for dim in over)
    return total


LEVEL = re.compile(r"(decoder\.up|encoder\.down)_blocks\.(\d+)\.(upsamplers|downsamplers)?.*")


def vae_operations(shapes: Shapes, dims: Dims) -> int:
    """Of either half of the VAE over B latents of h x w; every block but one doubles both sides, or halves them."""
    blocks = 1 + max(int(found[2]) for found in map(LEVEL.match, shapes) if found)
    per_picture = 0
    for name, shape in shapes.items():
        pixels = dims["h"] * dims["w"] * 4 ** _level(name, blocks)
        if len(shape) in (2, 4):
            per_picture += 2 * pixels * math.prod(shape)
        if name.endswith("to_q.weight"):
            per_picture += 4 * pixels * pixels * shape[0]
    return dims["B"] * per_picture


def _level(name: str, blocks: int) -> int:
    """How many times both sides of the latents are doubled where a weight is used."""
    if found := LEVEL.match(name):
        between = 1 if found[3] else 0  # the convolution that changes the size answers in the next one
        return int(found[2]) + between if found[1] == "decoder.up" else blocks - 1 - int(found[2]) - between
    return blocks - 1 if name.startswith(("decoder.conv_out", "encoder.conv_in")) else 0


def decoder_activations(block_out_channels: Sequence[int], dims: Dims) -> int:
    """Numbers where the decoder is widest: three tensors of a block's input width (input, its norm, the convolved)."""
    widths = block_out_channels[::-1]
    widest = max(widths[max(0, level - 1)] * 4**level for level in range(len(widths)))
    return dims["B"] * dims["h"] * dims["w"] * 3 * widest
