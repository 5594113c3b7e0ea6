"""Each network's weights, from the headers of its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hsengines.dtypes import FLOATS, numpy_dtype
from hsexport.network import Network
from hsexport.pair.checkpoint import BUFFERS
from hsexport.pair.shards import read_headers
from hsexport.recipe import Recipe

HEADER_NAMES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
RESHAPED = frozenset({"pos_embed.proj.weight", *BUFFERS})
"""A transformer's tensors that its graph holds otherwise: the patch embedding as a matrix, the table's middle alone."""


@dataclass(frozen=True)
class Weight:
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
    tensors: int
    parameters: int
    checkpoint_bytes: int
    """Its folder's: the VAE's encoder and the whole position table count, too."""
    bundle_bytes: int
    unchanged_bytes: int
    """Of the bundle's: what the checkpoint has in the same type and order."""
    largest_parameters: int
    """Of its largest tensor."""
    border_bytes: int
    """One set of inputs and outputs as the build compares them, fp32."""


@dataclass(frozen=True)
class Weights:
    """A network's tensors, and the bytes that its folder holds."""

    kept: tuple[Weight, ...]
    checkpoint_bytes: int

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """By name."""
        return {weight.name: weight.shape for weight in self.kept}


def weights_of(network: Network, recipe: Recipe) -> Weights:
    """What the engine will hold: a decoder without its encoder, tied tensors once, positions as far as sizes reach."""
    if network.weights is None:
        return Weights((), 0)
    headers = read_headers(network.weights)
    precision = network.precision_in(recipe.request.options.precision)
    wide = _fp32_modules(network, recipe, precision)
    kept = []
    for header in headers.values():
        if header.dtype not in ("F64", *HEADER_NAMES.values()) or not _is_used(network, header.name, headers):
            continue
        own = "fp32" if any(fnmatchcase(header.name.rpartition(".")[0], pattern) for pattern in wide) else precision
        shape = header.shape
        if header.name in BUFFERS:
            table = recipe.positions[network.name]
            shape = (table.rows * table.columns, shape[-1])
        unchanged = header.dtype == HEADER_NAMES[own] and header.name not in RESHAPED
        kept.append(Weight(header.name, shape, math.prod(shape) * _item_bytes(own), unchanged))
    return Weights(tuple(kept), sum(header.size_bytes for header in headers.values()))


def network_plan(network: Network, weights: Weights, precision: str) -> NetworkPlan:
    """The sums."""
    border = (*network.spec.inputs, *network.spec.outputs)
    return NetworkPlan(
        name=network.name,
        precision=precision,
        tensors=len(weights.kept),
        parameters=sum(weight.elements for weight in weights.kept),
        checkpoint_bytes=weights.checkpoint_bytes,
        bundle_bytes=sum(weight.size_bytes for weight in weights.kept),
        unchanged_bytes=sum(weight.size_bytes for weight in weights.kept if weight.as_it_lies),
        largest_parameters=max((weight.elements for weight in weights.kept), default=0),
        border_bytes=sum(4 * math.prod(tensor.resolve(network.check_dims)) for tensor in border),
    )


def _is_used(network: Network, tensor: str, beside: Mapping[str, object]) -> bool:
    """Whether the graph reads it: not the encoder's half of a VAE, nor the queries of the last layer's text."""
    if network.name == "vae_decoder":
        return tensor.startswith(("decoder.", "post_quant_conv."))
    if network.layers:
        last = f"transformer_blocks.{network.layers - 1}.attn"
        return not tensor.startswith((f"{last}.add_q_proj.", f"{last}.norm_added_q."))
    return not (tensor == "encoder.embed_tokens.weight" and "shared.weight" in beside)


def _fp32_modules(network: Network, recipe: Recipe, precision: str) -> tuple[str, ...]:
    """Patterns of modules whose weights stay fp32; islands of single operators hold norms: next to nothing."""
    if precision == "fp32":
        return ()
    from hsexport.passes.islands import default_islands, islands_from_text

    islands = default_islands(network.name, network.layers, precision)
    islands += islands_from_text(recipe.request.fp32, network.name)
    return tuple(pattern for island in islands if not island.operators for pattern in island.modules)


def _item_bytes(precision: str) -> int:
    return numpy_dtype(FLOATS[precision]).itemsize
