"""What a check needs of memory and disk, told before the work starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from gpu_checks.plan import Target
from hsengines.errors import HSError
from hsexport.plan.machine import available_memory, existing, held_bytes
from random_pairs.shapes import PairShape

GIB = 2**30
HOST_COPIES = 3.2
"""How often the larger transformer is held at once, in fp32. Measured with two layers at real width on ort-cpu, where
the peak was 6.8 GB for 1.9 GB of weights, 0.6 GB of which the libraries take: the export held 2.7, loading 3.2."""
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

    Checkpoints are 16 bits a number. The exporter reads and writes them in fp32; each target then keeps the graph in
    its own precision and the engine, which the bundle shares.
    """
    count = parameters(shape)
    both = sum(count.values())
    per_number = 2 + 4 + sum(2 * DISK_BYTES[target.precision] for target in targets)
    return int(HOST_COPIES * 4 * max(count.values())) + GIB, both * per_number + GIB


def refuse_if_too_small(shape: PairShape, targets: list[Target], out: Path) -> None:
    """Raises HSError where memory or disk will not do; what an earlier run wrote counts as free."""
    memory, disk = needed(shape, targets)
    free = shutil.disk_usage(existing(out)).free + held_bytes(out)
    hint = "try --layers 4, or another machine"
    if available_memory() < memory:
        raise HSError(f"the pair needs {memory / GIB:.0f} GiB of memory, {available_memory() / GIB:.0f} are free", hint)
    if free < disk:
        raise HSError(f"{out} needs {disk / GIB:.0f} GiB of disk, {free / GIB:.0f} are free", "name another --out")
