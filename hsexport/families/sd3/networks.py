"""Large and small as networks of a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from hsengines.spec import EngineSpec, TensorSpec
from hsexport.families.pair import Member
from hsexport.families.recipe import Recipe
from hsexport.families.sd3.counts import conditioning_operations, modulation_chunks, transformer_activations
from hsexport.families.sd3.fp32_blocks import transformer_rules
from hsexport.families.sd3.weight_rules import transformer_weight_rules
from hsexport.families.sd3.weights import transformer_weights
from hsexport.families.shared.counts import middle_of
from hsexport.families.shared.step_specs import RESIDUAL, TRACE_DIMS, cached_step, profiles, residual, whole_step
from hsexport.networks.network import Network, on_meta

if TYPE_CHECKING:
    from torch import nn


def large_network(recipe: Recipe) -> Network:
    """Large's step; with a light form beside it, it answers what its middle blocks add to both streams."""
    spec = cached_step(recipe, _conditions(recipe.pair.large), *(residual(recipe, "M") if recipe.facts.light else ()))
    return _denoiser(
        recipe, spec, recipe.pair.large, narrow=("modulation", "context", "past_*", "present_*", *RESIDUAL)
    )


def small_network(recipe: Recipe, small: Member) -> Network:
    """Small's step."""
    return _denoiser(recipe, whole_step(recipe, "small", _conditions(small)), small, narrow=("modulation", "context"))


def light_network(recipe: Recipe, outer: tuple[int, int]) -> Network:
    """A step of large's outer blocks: always the whole picture, no cache."""
    large = recipe.pair.large
    spec = whole_step(recipe, "light", (*_conditions(large), *residual(recipe, "N")))
    return _denoiser(recipe, spec, large, narrow=("modulation", "context", *RESIDUAL), outer=outer)


def conditioning_network(recipe: Recipe, member: Member) -> Network:
    """What a member's steps take of prompts and noise levels, once a picture, for all steps."""
    config = member.config
    inputs = (
        TensorSpec("timesteps", "float32", ("S",)),
        TensorSpec("text", "float32", ("G", "T", config.joint_attention_dim)),
        TensorSpec("pooled", "float32", ("G", config.pooled_projection_dim)),
    )
    spec = EngineSpec(f"condition_{member.role}", inputs, _conditions(member), profiles(recipe, "G", "T", "S"))

    def module() -> nn.Module:
        from hsexport.families.sd3.conditioning import Conditioning
        from hsexport.families.sd3.transformer import transformer_like

        return Conditioning(transformer_like(config))

    made = _network(recipe, spec, member, module, ("text", "pooled", "modulation", "context"), conditions=True)
    # Its widest is the modulation itself, in parts before they are joined.
    size = modulation_chunks(config) * config.width
    return replace(made, operations=conditioning_operations, activations=lambda dims, _: dims["S"] * dims["G"] * size)


def _conditions(member: Member) -> tuple[TensorSpec, ...]:
    width = member.config.width
    return (
        TensorSpec("modulation", "float32", ("S", "G", 1, modulation_chunks(member.config) * width)),
        TensorSpec("context", "float32", ("G", "T", width)),
    )


def _denoiser(
    recipe: Recipe,
    spec: EngineSpec,
    member: Member,
    narrow: tuple[str, ...],
    outer: tuple[int, int] | None = None,
) -> Network:
    """`outer`: without the blocks between so many in front and so many behind."""
    kept, config, light = getattr(recipe.facts, member.role).positions, member.config, recipe.facts.light
    last = f"transformer_blocks.{config.num_layers - 1}.attn"

    def module() -> nn.Module:
        from hsexport.families.sd3.transformer import OuterTransformer, TokenTransformer, transformer_like

        model = transformer_like(config)
        if outer:
            return OuterTransformer(model, kept, outer)
        if member.role == "small":
            return TokenTransformer(model, kept)
        return TokenTransformer(model, kept, takes_cache=True, outer=light.outer if light else None)

    made = _network(recipe, spec, member, module, narrow, left_out=middle_of(config.num_layers, outer))
    return replace(
        made,
        limits={"positions": kept.rows * kept.columns, "step": "S"},
        layers=sum(outer) if outer else config.num_layers,
        # The last layer hands no text on, and asks nothing with it.
        unread=(f"{last}.add_q_proj.*", f"{last}.norm_added_q.*"),
        activations=lambda dims, fused: transformer_activations(config, dims, fused=fused),
    )


def _network(
    recipe: Recipe,
    spec: EngineSpec,
    member: Member,
    module: Callable[[], nn.Module],
    narrow: tuple[str, ...],
    *,
    conditions: bool = False,
    left_out: Collection[int] = (),
) -> Network:
    """What all of a member's networks share; each has the weights that its part of the transformer reads."""
    kept, config = getattr(recipe.facts, member.role).positions, member.config
    light = recipe.facts.light if member.role == "large" and not conditions else None

    return Network(
        spec,
        on_meta(module),
        TRACE_DIMS,
        weights=transformer_weights(
            member, kept, recipe.adapters[member.role], conditions=conditions, left_out=left_out
        ),
        facts={
            "positions": f"{kept.rows}x{kept.columns} of {kept.table_size}",
            "config": json.dumps(asdict(config), sort_keys=True),
        }
        | ({"outer blocks": "+".join(map(str, light.outer))} if light and light.outer else {}),
        narrow_tensors=narrow,
        fp32_blocks=transformer_rules(config.num_layers),
        weight_rules=transformer_weight_rules(config.num_layers),
        tables=("position_table",),
    )
