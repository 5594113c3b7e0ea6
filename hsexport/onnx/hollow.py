"""Modules to trace: shapes and types without a number behind them."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


def made_fake(skeleton: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A module on the meta device with fake CPU tensors in its place, in place: torch.export follows devices.

    What a module computes for itself (position ids) is real, belongs into the graph, and stays.
    """
    made: dict[int, torch.Tensor] = {}
    for owner in skeleton.modules():
        for slots in (owner._parameters, owner._buffers):
            for name, tensor in slots.items():
                if tensor is not None and tensor.is_meta:
                    slots[name] = made.setdefault(id(tensor), _fake(tensor, mode))
    return skeleton.eval()


def _fake(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    with mode:
        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        return nn.Parameter(fake, requires_grad=False) if isinstance(tensor, nn.Parameter) else fake
