"""A torch module that holds its weights only while they are at work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from accelerate.hooks import attach_align_device_hook
from torch import nn

from hsexport.weights.weight import DTYPES
from hsexport.weights.weights import Weights

BF16 = DTYPES["BF16"]


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """What a checkpoint has to bring for a module, by name."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def streamed(skeleton: nn.Module, weights: Weights) -> nn.Module:
    """A module on the meta device made to compute in fp32: every layer reads its weights when it runs, then drops them.

    Memory holds the largest layer, however large the model is. The module given is the one returned. Raises PairError
    for weights that are not its own.
    """
    weights.check_fits(shapes_of(skeleton))
    attach_align_device_hook(
        skeleton, execution_device=torch.device("cpu"), offload=True, weights_map=_Floats(weights), offload_buffers=True
    )
    return skeleton.eval()


class _Floats(Mapping[str, torch.Tensor]):
    """Weights as accelerate looks them up: fp32 tensors, made anew each time."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> torch.Tensor:
        array = self._weights[name].read()
        if array.dtype == BF16:  # numpy has no such type of its own, and torch casts several times as fast
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).float()
        return torch.from_numpy(array).float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
