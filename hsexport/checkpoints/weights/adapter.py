"""LoRAs fused into a checkpoint's weights, whose own files stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from hsexport.checkpoints.weights.weights import Weight, changed
from hsruntime.adapters.changeable import Changeable, Rows
from hsruntime.adapters.headers import Place, TensorHeader
from hsruntime.adapters.lora import Adapter, AdapterRequest, Update, added, read_adapter

__all__ = ["Adapter", "AdapterRequest", "changeable_from", "fused", "read_adapter"]

WEIGHT = ".weight"
"""How names end of what a module multiplies with."""


def changeable_from(tensors: Mapping[str, TensorHeader], places: Mapping[str, Place]) -> Changeable:
    """What adapters may change of a checkpoint's tensors, which no engine has yet.

    `places`: where another layout has them, whose modules an adapter may name.
    """
    rows = {n: Rows(module=p.source.removesuffix(WEIGHT), parts=p.parts, order=p.order) for n, p in places.items()}
    return Changeable(
        shapes={name: header.shape for name, header in tensors.items() if name.endswith(WEIGHT)},
        rows={name: place for name, place in rows.items() if name.endswith(WEIGHT)},
        engines={},
    )


def fused(weights: Mapping[str, Weight], adapters: Iterable[Mapping[str, Update]]) -> dict[str, Weight]:
    """All of `weights`, by the names that adapters have for them, with every adapter's updates added.

    A changed weight reads as float32. Nothing is read before somebody reads it. The adapters fit: `read_adapter` saw
    to it.
    """
    result = dict(weights)
    for adapter in adapters:
        for name, update in adapter.items():
            result[name] = changed(result[name], result[name].shape, partial(added, update))
    return result
