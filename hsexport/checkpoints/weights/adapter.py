"""LoRAs fused into a checkpoint's weights, whose own files stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from hsexport.checkpoints.weights.weights import Weight, changed
from hsruntime.adapters import lora
from hsruntime.adapters.headers import Place, TensorHeader
from hsruntime.adapters.lora import Adapter, AdapterRequest, added

__all__ = ["Adapter", "AdapterRequest", "fused", "read_adapter"]


def read_adapter(
    request: AdapterRequest, tensors: Mapping[str, TensorHeader], places: Mapping[str, Place], told: str
) -> Adapter:
    """As `hsruntime.adapters.lora.read_adapter`, of a member's own tensors. Raises PairError."""
    return lora.read_adapter(request, {name: header.shape for name, header in tensors.items()}, places, told)


def fused(weights: Mapping[str, Weight], adapters: Iterable[Adapter]) -> dict[str, Weight]:
    """All of `weights`, by diffusers' names, with every adapter added to those it changes.

    A changed weight reads as float32. Nothing is read before somebody reads it. The adapters fit: `read_adapter` saw
    to it.
    """
    result = dict(weights)
    for adapter in adapters:
        for name, update in adapter.updates.items():
            result[name] = changed(result[name], result[name].shape, partial(added, update))
    return result
