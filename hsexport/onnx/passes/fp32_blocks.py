"""The fp32 block list of a network: what stays in fp32 when its graph is cast to half precision."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from hsexport.networks.network import Fp32Rule, Network

NORMS = Fp32Rule(
    "norms",
    operators=("LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization"),
    reason="variances square what they are given",
)


def fp32_rules(network: Network, precision: str, asked: Sequence[str] = ()) -> tuple[Fp32Rule, ...]:
    """Norms, what the network brings, and what the user asked for; nothing for a graph that is not cast.

    A user's text names modules of one network, "large:transformer_blocks.35*", or without a prefix of all; the prefix
    may be a pattern. Raises PassError for a text without a module pattern. One that holds no node of any network shows
    as 0 nodes in every cast; saying so is the caller's part.
    """
    rules = [NORMS, *network.fp32_blocks]
    for text in asked:
        prefix, colon, modules = text.rpartition(":")
        if not modules or (colon and not prefix):
            # Not earlier: a plan is made without onnx_ir, whose import takes half of its time.
            from hsexport.onnx.passes.graph_pass import PassError

            raise PassError(f"--fp32 '{text}' names no modules", "write it like large:transformer_blocks.35*")
        if not colon or fnmatchcase(network.name, prefix):
            rules.append(Fp32Rule(text, modules=(modules,), reason="asked for"))
    return tuple(rule for rule in rules if precision in rule.precisions)
