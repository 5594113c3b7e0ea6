"""LoRA adapters fused into a network's weights as they are read; the checkpoint's files stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np

from hsexport.checkpoints.weights.adapter import Adapter, Matrices
from hsexport.checkpoints.weights.weights import Changed, Stored, Weight


def fused(weights: Mapping[str, Weight], adapters: Iterable[Adapter]) -> dict[str, Weight]:
    """All of `weights`, by diffusers' names, with every adapter added to those it changes.

    A changed weight reads as float32. Nothing is read before somebody reads it. The adapters fit: `read_adapter` saw
    to it.
    """
    result = dict(weights)
    for adapter in adapters:
        for name, update in adapter.updates.items():
            result[name] = Changed(result[name], result[name].shape, partial(_added, update))
    return result


def _added(update: Matrices, weight: np.ndarray) -> np.ndarray:
    """W + factor * up @ down, in float32."""
    up, down = (Stored(header).read().astype(np.float32) for header in (update.up, update.down))
    product = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
    return weight.astype(np.float32) + np.float32(update.factor) * product.reshape(weight.shape)
