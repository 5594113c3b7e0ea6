"""Large and small, and what conditions them, as networks of a bundle."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from hsengines.spec import EngineSpec, TensorSpec
from hsexport.families.flux2.config import TransformerConfig
from hsexport.families.flux2.counts import CHUNKS, conditioning_operations, transformer_activations
from hsexport.families.flux2.rules import TRANSFORMER_FP32, transformer_weight_rules
from hsexport.families.pair import Member
from hsexport.families.recipe import Recipe
from hsexport.families.shared.step_specs import TRACE_DIMS, cached_step, profiles, whole_step
from hsexport.families.shared.weights import member_weights
from hsexport.networks.network import Network

if TYPE_CHECKING:
    from torch import nn

CONDITIONING = re.compile(r"(time_guidance_embed|context_embedder|\w+_modulation\w*|norm_out\.linear)\..*")
"""Tensors of a transformer that its conditioning network reads; all others are the denoiser's."""


def step_network(recipe: Recipe, member: Member) -> Network:
    """A member's step: large's by way of the cache, small's always the whole picture."""
    facts, config, is_large = getattr(recipe.facts, member.role), member.config, member.role == "large"
    conditions = _conditions(config)
    spec = cached_step(recipe, conditions) if is_large else whole_step(recipe, "small", conditions)
    text, references = recipe.facts.text[facts.text].tokens, recipe.facts.sizes.references

    def module() -> nn.Module:
        from hsexport.families.flux2.transformer import TokenTransformer, transformer_like

        made = transformer_like(config)
        return TokenTransformer(made, facts.positions, text, takes_cache=is_large, references=references)

    cache = ("past_*", "present_*") if is_large else ()
    made = _network(recipe, spec, member, module, ("modulation", "context", *cache), conditions=False)
    return replace(
        made,
        limits={"positions": (1 + references) * facts.positions.rows * facts.positions.columns, "step": "S"},
        layers=config.layers,
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
    conditions: bool,
) -> Network:
    """What all of a member's networks share; each has the weights that its part of the transformer reads."""
    facts, config = getattr(recipe.facts, member.role), member.config

    def skeleton() -> nn.Module:
        import torch

        with torch.device("meta"):
            return module()

    return Network(
        spec,
        skeleton,
        TRACE_DIMS,
        weights=member_weights(
            member, recipe.adapters[member.role], lambda name: bool(CONDITIONING.match(name)) == conditions
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
