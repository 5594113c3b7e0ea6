"""Large and small, and what conditions them, as networks of a bundle."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hsengines.spec import EngineSpec, TensorSpec
from hsexport.families.flux2.config import TransformerConfig
from hsexport.families.flux2.counts import (
    CHUNKS,
    conditioning_operations,
    left_out_by,
    transformer_activations,
    without_middle,
)
from hsexport.families.flux2.rules import TRANSFORMER_FP32, transformer_weight_rules
from hsexport.families.pair import Member
from hsexport.families.recipe import Recipe
from hsexport.families.shared.step_specs import RESIDUAL, TRACE_DIMS, cached_step, profiles, residual, whole_step
from hsexport.families.shared.weights import member_weights
from hsexport.networks.network import Network, on_meta

if TYPE_CHECKING:
    from torch import nn

CONDITIONING = re.compile(r"(time_guidance_embed|context_embedder|\w+_modulation\w*|norm_out\.linear)\..*")
"""Tensors of a transformer that its conditioning network reads; all others are the denoiser's."""


def large_network(recipe: Recipe) -> Network:
    """Large's step; with a light form beside it, it answers what its middle blocks add to both streams."""
    light, conditions = recipe.facts.light, _conditions(recipe.pair.large.config)
    spec = cached_step(recipe, conditions, *(residual(recipe, "M") if light else ()))
    form = {"takes_cache": True, "outer": light.outer if light else None}
    return _step_network(recipe, recipe.pair.large, spec, form, ("past_*", "present_*", *RESIDUAL))


def small_network(recipe: Recipe, small: Member) -> Network:
    """Small's step."""
    return _step_network(recipe, small, whole_step(recipe, "small", _conditions(small.config)), {})


def light_network(recipe: Recipe, outer: tuple[int, int]) -> Network:
    """A step of large's outer blocks: always the whole picture, no cache."""
    large = recipe.pair.large
    spec = whole_step(recipe, "light", (*_conditions(large.config), *residual(recipe, "N")))
    return _step_network(recipe, large, spec, {"outer": outer, "light": True}, RESIDUAL)


def _step_network(
    recipe: Recipe, member: Member, spec: EngineSpec, form: dict[str, Any], narrow: tuple[str, ...] = ()
) -> Network:
    """`form`: of the TokenTransformer."""
    facts, config = getattr(recipe.facts, member.role), member.config
    text, references = recipe.facts.text[facts.text].tokens, recipe.facts.sizes.references

    def module() -> nn.Module:
        from hsexport.families.flux2.transformer import TokenTransformer, transformer_like

        return TokenTransformer(transformer_like(config), facts.positions, text, references=references, **form)

    outer = form.get("outer")
    without = outer if form.get("light") else None
    narrow = ("modulation", "context", *narrow)
    made = _network(recipe, spec, member, module, narrow, left_out=left_out_by(config, without))
    return replace(
        made,
        limits={"positions": (1 + references) * facts.positions.rows * facts.positions.columns, "step": "S"},
        facts={**made.facts} | ({"outer blocks": "+".join(map(str, outer))} if outer else {}),
        layers=without_middle(config, without).layers,
        activations=lambda dims, fused: transformer_activations(config, dims, fused=fused),
    )


def conditioning_network(recipe: Recipe, member: Member) -> Network:
    """What a member's steps take of prompts and noise levels, once a picture, for all steps."""
    config = member.config
    inputs = (
        TensorSpec("timesteps", "float32", ("S",)),
        TensorSpec("text", "float32", ("G", "T", config.joint_attention_dim)),
    )
    spec = EngineSpec(f"condition_{member.role}", inputs, _conditions(config), profiles(recipe, "G", "T", "S"))

    def module() -> nn.Module:
        from hsexport.families.flux2.conditioning import Conditioning
        from hsexport.families.flux2.transformer import transformer_like

        return Conditioning(transformer_like(config))

    made = _network(recipe, spec, member, module, ("text", "modulation", "context"), conditions=True)
    widest = CHUNKS * config.width
    return replace(made, operations=conditioning_operations, activations=lambda dims, _: dims["S"] * widest)


def _conditions(config: TransformerConfig) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("modulation", "float32", ("S", 1, CHUNKS * config.width)),
        TensorSpec("context", "float32", ("G", "T", config.width)),
    )


def _network(
    recipe: Recipe,
    spec: EngineSpec,
    member: Member,
    module: Callable[[], nn.Module],
    narrow: tuple[str, ...],
    *,
    conditions: bool = False,
    left_out: tuple[str, ...] = (),
) -> Network:
    """What all of a member's networks share; each has the weights that its part of the transformer reads."""
    facts, config = getattr(recipe.facts, member.role), member.config

    return Network(
        spec,
        on_meta(module),
        TRACE_DIMS,
        weights=member_weights(
            member,
            recipe.adapters[member.role],
            lambda name: bool(CONDITIONING.match(name)) == conditions and not name.startswith(left_out),
        ),
        facts={
            "positions": f"{facts.positions.rows}x{facts.positions.columns}",
            "references": str(recipe.facts.sizes.references),
            "text": str(recipe.facts.text[facts.text].tokens),
            "config": json.dumps(config.diffusers(), sort_keys=True),
        },
        narrow_tensors=narrow,
        fp32_blocks=TRANSFORMER_FP32,
        weight_rules=transformer_weight_rules(config.num_layers, config.num_single_layers),
    )
