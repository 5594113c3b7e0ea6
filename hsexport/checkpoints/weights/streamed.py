"""A torch module that holds its weights only while they are at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy as np
import torch
from accelerate import init_empty_weights
from accelerate.hooks import attach_align_device_hook
from torch import nn

from hsexport.checkpoints.shards import TensorHeader
from hsexport.checkpoints.weights.weights import Weights, stored
from hsexport.progress import OnBytes
from hsruntime.adapters.headers import DTYPES

BF16 = DTYPES["BF16"]
Model = TypeVar("Model", bound=nn.Module)


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """What a checkpoint has to bring for a module, by name."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def tensor_of(array: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A weight's numbers, as they were read, in a type of choice."""
    if array.dtype == BF16:  # numpy has no such type of its own, and torch casts several times as fast
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(dtype)
    return torch.from_numpy(array).to(dtype)


def filled(make: Callable[[], Model], tensors: Mapping[str, TensorHeader], dtype: torch.dtype) -> Model:
    """What `make` makes, with a checkpoint's tensors in place of its own; none of its own is ever in memory.

    Raises PairError for weights in a type of no network.
    """
    with init_empty_weights(include_buffers=True):
        model = make()
    weights = {name: tensor_of(stored(header).read(), dtype) for name, header in tensors.items()}
    model.load_state_dict(weights, assign=True)
    return model.eval()


def streamed(skeleton: nn.Module, weights: Weights, on_bytes: OnBytes | None = None) -> nn.Module:
    """A module on the meta device made to compute in fp32: every layer reads its weights when it runs, then drops them.

    Memory holds the largest layer, however large the model is. The module given is the one returned. `on_bytes` hears
    of the weights as a first call reads them. Raises PairError for weights that are not its own.
    """
    weights.check_fits(shapes_of(skeleton))
    floats, cpu = _Floats(weights, on_bytes), torch.device("cpu")
    attach_align_device_hook(skeleton, execution_device=cpu, offload=True, weights_map=floats, offload_buffers=True)
    return skeleton.eval()


class _Floats(Mapping[str, torch.Tensor]):
    """Weights as accelerate looks them up: fp32 tensors, made anew each time."""

    def __init__(self, weights: Weights, on_bytes: OnBytes | None) -> None:
        self._weights = weights
        self._on_bytes = on_bytes
        self._read_bytes = 0

    def __getitem__(self, name: str) -> torch.Tensor:
        array = self._weights[name].read()
        self._read_bytes += array.nbytes
        if self._on_bytes:
            total = self._weights.size_bytes
            self._on_bytes(min(self._read_bytes, total), total)
        return tensor_of(array)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
