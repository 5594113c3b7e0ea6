"""Large and small as networks of a bundle."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from hsengines.spec import DimRange, EngineSpec, Profile, TensorSpec
from hsexport.families.pair import Member
from hsexport.families.recipe import Recipe
from hsexport.families.sd3.counts import transformer_activations
from hsexport.families.sd3.fp32_blocks import transformer_rules
from hsexport.families.sd3.weights import transformer_weights
from hsexport.networks.network import Network
from hsruntime.facts import Transformer

if TYPE_CHECKING:
    from torch import nn

TRACE_DIMS = {"G": 2, "M": 6, "R": 10, "T": 5, "U": 4, "N": 12}
REGION_RATIO = 0.3  # what the region profile is tuned for


def large_network(recipe: Recipe) -> Network:
    """Large: M active image tokens, R cached ones, T live text tokens, U cached ones.

    R = U = 0 makes it the whole model; T = 0 leaves the text stream to the cache.
    """
    arch, ranges = recipe.facts.large, recipe.ranges()
    past = [*_slots(arch, "past", arch.image_slots, "R"), *_slots(arch, "past_text", arch.text_slots, "U")]
    presents = [*_slots(arch, "present", arch.image_slots, "M"), *_slots(arch, "present_text", arch.text_slots, "T")]
    rows, tokens, text = ranges["G"], ranges["N"], ranges["T"]
    region = DimRange(1, max(1, round(REGION_RATIO * tokens.optimum)), tokens.maximum)
    cached = DimRange(0, tokens.optimum - region.optimum, max(1, tokens.maximum - 1))
    live, kept = DimRange(0, text.optimum, text.maximum), DimRange(0, 0, text.maximum)
    profiles = (
        Profile("full", {"G": rows, "M": tokens, "R": DimRange(0, 0, 0), "T": text, "U": DimRange(0, 0, 0)}),
        Profile("region", {"G": rows, "M": region, "R": cached, "T": live, "U": kept}),
    )
    velocity = TensorSpec("velocity", "float32", ("G", "M", recipe.facts.latent.token_width))
    spec = EngineSpec(
        "large", (*_common_inputs(recipe, recipe.pair.large, "M"), *past), (velocity, *presents), profiles
    )
    return _network(recipe, spec, recipe.pair.large, narrow=("text", "pooled", "past_*", "present_*"))


def small_network(recipe: Recipe) -> Network:
    """Small: always the whole picture, no cache."""
    ranges = recipe.ranges()
    velocity = TensorSpec("velocity", "float32", ("G", "N", recipe.facts.latent.token_width))
    profiles = (Profile("full", {name: ranges[name] for name in ("G", "N", "T")}),)
    spec = EngineSpec("small", _common_inputs(recipe, recipe.pair.small, "N"), (velocity,), profiles)
    return _network(recipe, spec, recipe.pair.small, narrow=("text", "pooled"))


def _slots(arch: Transformer, prefix: str, layers: int, tokens: str) -> list[TensorSpec]:
    """Of a cache, layer by layer, key before value: past_k_0, past_v_0, past_k_1, ..."""
    shape = ("G", arch.heads, tokens, arch.head_size)
    return [TensorSpec(f"{prefix}_{which}_{layer}", "float32", shape) for layer in range(layers) for which in "kv"]


def _common_inputs(recipe: Recipe, member: Member, tokens: str) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("tokens", "float32", ("G", tokens, recipe.facts.latent.token_width)),
        TensorSpec("positions", "int32", ("G", tokens)),
        TensorSpec("timestep", "float32", (1,)),
        TensorSpec("text", "float32", ("G", "T", member.config.joint_attention_dim)),
        TensorSpec("pooled", "float32", ("G", member.config.pooled_projection_dim)),
    )


def _network(recipe: Recipe, spec: EngineSpec, member: Member, narrow: tuple[str, ...]) -> Network:
    kept, config = getattr(recipe.facts, member.role).positions, member.config
    last = f"transformer_blocks.{config.num_layers - 1}.attn"

    def skeleton() -> nn.Module:
        import torch

        from hsexport.families.sd3.transformer import TokenTransformer, transformer_like

        with torch.device("meta"):
            return TokenTransformer(transformer_like(config), kept, takes_cache=member.role == "large")

    return Network(
        spec,
        skeleton,
        TRACE_DIMS,
        {"positions": kept.rows * kept.columns},
        weights=transformer_weights(member, kept, recipe.adapters[member.role]),
        facts={
            "positions": f"{kept.rows}x{kept.columns} of {kept.table_size}",
            "config": json.dumps(asdict(config), sort_keys=True),
        },
        narrow_tensors=narrow,
        fp32_blocks=transformer_rules(config.num_layers),
        layers=config.num_layers,
        # The last layer hands no text on, and asks nothing with it.
        unread=(f"{last}.add_q_proj.*", f"{last}.norm_added_q.*"),
        activations=lambda dims, fused: transformer_activations(config, dims, fused=fused),
    )
