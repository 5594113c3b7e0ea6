"""Each network's weights, from the headers of its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hsengines.spec import FLOATS, numpy_dtype
from hsengines.traits import traits_of
from hsengines.weights import (
    CONVOLUTION,
    FORMATS,
    PRODUCT,
    TABLE,
    UNQUANTIZED,
    Asked,
    asked_weights,
    block_of,
    fitting,
)
from hsexport.build.request import BuildRequest
from hsexport.checkpoints.weights import Weight, Weights
from hsexport.networks.network import Network
from hsruntime.adapters.headers import DTYPES

STORED = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
"""A precision as safetensors calls it."""


@dataclass(frozen=True)
class ResidentWeight:
    """A tensor that an engine holds; `as_it_lies` says that the checkpoint has it in the same type and bytes."""

    name: str
    shape: tuple[int, ...]
    size_bytes: int
    as_it_lies: bool

    @property
    def elements(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class NetworkPlan:
    """A network's weights, as they lie on disk and as the bundle holds them. Bytes."""

    name: str
    precision: str
    weights: str
    """The format they are stored in."""
    tensors: int
    parameters: int
    checkpoint_bytes: int
    """Its folder's: the VAE's encoder and the whole position table count, too."""
    bundle_bytes: int
    unchanged_bytes: int
    """Of the bundle's: what the checkpoint has in the same type and order."""
    largest_parameters: int
    """Of its largest tensor."""
    signature_bytes: int
    """One set of inputs and outputs as the build compares them, fp32."""


def resident_weights(network: Network, request: BuildRequest) -> list[ResidentWeight]:
    """What the engine will hold: a decoder without its encoder, a tensor of two names once."""
    if network.weights is None:
        return []
    precision = network.precision_in(request.options.precision)
    # Rules for single operators hold norms: next to nothing.
    rules = [rule for rule in network.fp32_rules(precision, request.fp32) if not rule.operators]
    wide = [pattern for rule in rules for pattern in rule.modules]
    held: list[ResidentWeight] = []
    asked, kinds = asked_weights(request.options.weights), traits_of(request.backend).quantised_kinds
    for name, weight in _distinct(network.weights):
        if network.reads(name):
            own = "fp32" if any(fnmatchcase(name.rpartition(".")[0], pattern) for pattern in wide) else precision
            format = _format_of(network, asked, kinds, name, weight)
            size = stored_bytes(format, weight.shape, item_bytes(own))
            stored = weight.stored
            unchanged = stored is not None and stored.dtype == STORED[own] and format == UNQUANTIZED
            held.append(ResidentWeight(name, weight.shape, size, unchanged))
    return held


def _format_of(network: Network, asked: Sequence[Asked], kinds: Collection[str], name: str, weight: Weight) -> str:
    """What a weight is stored in."""
    kind = _kind_of(network, name, weight)
    if kind not in kinds or network.weights_in(asked, kinds) == UNQUANTIZED:
        return UNQUANTIZED
    wanted, _ = network.format_of(asked, name.removesuffix(".weight"))
    return fitting(wanted, *_matrix(weight.shape), kind)[0]


def _kind_of(network: Network, name: str, weight: Weight) -> str:
    """What reads a weight, as its name and rank tell; empty for norms, biases and the like."""
    if network.is_table(name):
        return TABLE
    ranks = {2: PRODUCT, 4: CONVOLUTION}
    return ranks.get(len(weight.shape), "") if name.endswith(".weight") else ""


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Output channels, and all the numbers of one."""
    return shape[0], math.prod(shape[1:])


def stored_bytes(format: str, shape: Sequence[int], item: int) -> int:
    """Of a weight in a format, whose scales, like numbers that are not quantised, have `item` bytes."""
    numbers = math.prod(shape)
    if format == UNQUANTIZED:
        return numbers * item
    block = block_of(format, _matrix(shape)[1])
    scales = numbers // block if block else shape[0]
    return numbers * FORMATS[format].bits // 8 + scales * (1 if format == "nvfp4" else item)


def _distinct(weights: Weights) -> Iterator[tuple[str, Weight]]:
    """Weights by the first of their names; no integers, which old checkpoints keep for positions."""
    seen = set()
    for name, weight in weights.items():
        if weight not in seen and (weight.stored is None or weight.stored.dtype in DTYPES):
            yield name, weight
        seen.add(weight)


def network_plan(
    network: Network, weights: Sequence[ResidentWeight], precision: str, format: str = UNQUANTIZED
) -> NetworkPlan:
    """The sums."""
    sources = network.weights.sources.values() if network.weights else ()
    signature = (*network.spec.inputs, *network.spec.outputs)
    return NetworkPlan(
        name=network.name,
        precision=precision,
        weights=format,
        tensors=len(weights),
        parameters=sum(tensor.elements for tensor in weights),
        checkpoint_bytes=sum(header.size_bytes for header in sources),
        bundle_bytes=sum(tensor.size_bytes for tensor in weights),
        unchanged_bytes=sum(tensor.size_bytes for tensor in weights if tensor.as_it_lies),
        largest_parameters=max((tensor.elements for tensor in weights), default=0),
        signature_bytes=sum(4 * math.prod(tensor.resolve(network.check_dims)) for tensor in signature),
    )


def item_bytes(precision: str) -> int:
    """Of one number."""
    return numpy_dtype(FLOATS[precision]).itemsize
