"""What a check needs of memory and disk, told before the work starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from hsengines.errors import HSError
from hsexport.measure.gpu_check.plan import Target
from hsexport.plan.machine import available_memory, existing, held_bytes
from hsexport.plan.measured import BUILDER_COPIES
from random_pairs.shapes import PairShape

GIB = 2**30
DISK_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


def parameters(shape: PairShape) -> dict[str, int]:
    """How many numbers each transformer's checkpoint holds."""
    from diffusers import SD3Transformer2DModel

    count = {}
    for role in ("large", "small"):
        with torch.device("meta"):
            model = SD3Transformer2DModel(**shape.transformer(role))
        count[role] = sum(tensor.numel() for tensor in model.state_dict().values())
    return count


def needed(shape: PairShape, targets: list[Target]) -> tuple[int, int]:
    """Bytes of memory and of disk.

    Checkpoints are 16 bits a number, and the export holds none of them. Each target keeps at most one copy in its own
    precision and the engine, which the bundle shares; its builder holds the larger transformer BUILDER_COPIES times.
    """
    count, widest = parameters(shape), max(DISK_BYTES[target.precision] for target in targets)
    both = sum(count.values())
    per_number = 2 + sum(2 * DISK_BYTES[target.precision] for target in targets)
    return int(BUILDER_COPIES * widest * max(count.values())) + GIB, both * per_number + GIB


def refuse_if_too_small(shape: PairShape, targets: list[Target], out: Path) -> None:
    """Raises HSError where memory or disk will not do; what an earlier run wrote counts as free."""
    memory, disk = needed(shape, targets)
    free = shutil.disk_usage(existing(out)).free + held_bytes(out)
    hint = "try --layers 4, or another machine"
    if available_memory() < memory:
        raise HSError(f"the pair needs {memory / GIB:.0f} GiB of memory, {available_memory() / GIB:.0f} are free", hint)
    if free < disk:
        raise HSError(f"{out} needs {disk / GIB:.0f} GiB of disk, {free / GIB:.0f} are free", "name another --out")
