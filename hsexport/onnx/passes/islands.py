"""Fp32 islands: which nodes of a half-precision graph stay in fp32, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx_ir as ir

from hsexport.onnx.passes.graph_pass import PassError
from hsexport.onnx.passes.names import module_path

NEVER_WIDE = ("Attention",)
"""TensorRT has no fp32 kernels for it. Its inputs are normalised, and it sums in fp32 by itself."""


@dataclass(frozen=True)
class Island:
    """Nodes that stay in fp32: those in a module that `modules` names, if they are one of `operators`.

    `modules` are patterns (fnmatch, `*` spans dots) over the module path in a node's name; empty, like empty
    `operators`, means any. Attention is never inside an island.
    """

    name: str
    modules: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    reason: str = ""

    def holds(self, node: ir.Node) -> bool:
        """Whether the island asks for this node in fp32."""
        if node.op_type in NEVER_WIDE or (self.operators and node.op_type not in self.operators):
            return False
        path = module_path(node)
        return not self.modules or any(fnmatchcase(path, pattern) for pattern in self.modules)


@dataclass(frozen=True)
class DefaultIsland:
    """An island and where it applies: empty `networks` means every network, 0 `layers` any number of them."""

    island: Island
    precisions: tuple[str, ...] = ("fp16", "bf16")
    networks: tuple[str, ...] = ()
    layers: int = 0

    def applies(self, network: str, layers: int, precision: str) -> bool:
        """Whether a network of that name and number of layers gets the island in that precision."""
        return (
            precision in self.precisions
            and (not self.networks or any(fnmatchcase(network, pattern) for pattern in self.networks))
            and self.layers in (0, layers)
        )


_NORMS = ("LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization")

DEFAULTS = (
    DefaultIsland(Island("norms", operators=_NORMS, reason="variances square what they are given")),
    DefaultIsland(
        Island(
            "timestep embedding",
            modules=("time_text_embed.time_proj*", "time_text_embed.timestep_embedder*"),
            reason="neighbouring steps differ in the fourth digit",
        )
    ),
    DefaultIsland(
        Island("T5's gelu", modules=("*.DenseReluDense.act",), reason="it cubes its input: fp16 ends at 40"),
        precisions=("fp16",),
    ),
    DefaultIsland(
        Island("T5's output products", modules=("*.DenseReluDense.wo",), reason="known to overflow fp16"),
        precisions=("fp16",),
    ),
    DefaultIsland(
        Island(
            "T5's residual stream",
            modules=("*.block.*.layer.[0-9]",),
            operators=("Add",),
            reason="it sums what overflows fp16",
        ),
        precisions=("fp16",),
    ),
    DefaultIsland(
        Island(
            "SD3.5-Large's block 35",
            modules=("transformer_blocks.35", "transformer_blocks.35.*"),
            reason="its activations are known to leave fp16",
        ),
        precisions=("fp16",),
        networks=("large", "small"),
        layers=38,
    ),
)
"""What experience says must stay in fp32."""


def default_islands(network: str, layers: int, precision: str) -> tuple[Island, ...]:
    """The islands of a network with `layers` transformer blocks (0 if it is no transformer)."""
    return tuple(default.island for default in DEFAULTS if default.applies(network, layers, precision))


def islands_from_text(patterns: Sequence[str], network: str) -> tuple[Island, ...]:
    """A user's islands for one network: "large:transformer_blocks.35*" is for large, without a prefix for all.

    The prefix may be a pattern. Raises PassError for a text without a module pattern. A pattern that no network has
    a node for shows as 0 nodes in every CastReport; saying so is the caller's part.
    """
    islands = []
    for text in patterns:
        prefix, colon, modules = text.rpartition(":")
        if not modules or (colon and not prefix):
            raise PassError(f"--fp32 '{text}' names no modules", "write it like large:transformer_blocks.35*")
        if not colon or fnmatchcase(network, prefix):
            islands.append(Island(text, modules=(modules,), reason="asked for"))
    return tuple(islands)
