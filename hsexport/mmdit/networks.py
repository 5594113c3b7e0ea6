"""Large and small as networks of a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsengines.spec import DimRange, EngineSpec, Profile, TensorSpec
from hsexport.network import Network
from hsexport.pair.loading import load_whole
from hsexport.pair.member import Member
from hsexport.recipe import Recipe
from hsruntime.manifest import Transformer

if TYPE_CHECKING:
    from torch import nn

TRACE_DIMS = {"G": 2, "M": 6, "R": 10, "T": 5, "N": 12}
REGION_RATIO = 0.3  # what the region profile is tuned for


def cache_names(prefix: str, layers: int) -> list[str]:
    """Tensor names of a cache, layer by layer, key before value: past_k_0, past_v_0, past_k_1, ..."""
    return [f"{prefix}_{which}_{layer}" for layer in range(layers) for which in ("k", "v")]


def large_network(recipe: Recipe) -> Network:
    """Large: M active tokens, R cached ones; R = 0 makes it the whole model."""
    arch, ranges = recipe.large, recipe.ranges()
    past = [TensorSpec(n, "float32", _slot(arch, "R")) for n in cache_names("past", arch.attention_layers)]
    presents = [TensorSpec(n, "float32", _slot(arch, "M")) for n in cache_names("present", arch.attention_layers)]
    rows, tokens, text = ranges["G"], ranges["N"], ranges["T"]
    region = DimRange(1, max(1, round(REGION_RATIO * tokens.optimum)), tokens.maximum)
    cached = DimRange(0, tokens.optimum - region.optimum, max(1, tokens.maximum - 1))
    profiles = (
        Profile("full", {"G": rows, "M": tokens, "R": DimRange(0, 0, 0), "T": text}),
        Profile("region", {"G": rows, "M": region, "R": cached, "T": text}),
    )
    velocity = TensorSpec("velocity", "float32", ("G", "M", recipe.latent.token_width))
    spec = EngineSpec("large", (*_common_inputs(recipe, arch, "M"), *past), (velocity, *presents), profiles)
    return _network(recipe, spec, recipe.pair.large, narrow=("text", "pooled", "past_*", "present_*"))


def small_network(recipe: Recipe) -> Network:
    """Small: always the whole picture, no cache."""
    ranges = recipe.ranges()
    velocity = TensorSpec("velocity", "float32", ("G", "N", recipe.latent.token_width))
    profiles = (Profile("full", {name: ranges[name] for name in ("G", "N", "T")}),)
    spec = EngineSpec("small", _common_inputs(recipe, recipe.small, "N"), (velocity,), profiles)
    return _network(recipe, spec, recipe.pair.small, narrow=("text", "pooled"))


def _slot(arch: Transformer, tokens: str) -> tuple[str, int, str, int]:
    return ("G", arch.heads, tokens, arch.head_size)


def _common_inputs(recipe: Recipe, arch: Transformer, tokens: str) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("tokens", "float32", ("G", tokens, recipe.latent.token_width)),
        TensorSpec("positions", "int32", ("G", tokens)),
        TensorSpec("timestep", "float32", (1,)),
        TensorSpec("text", "float32", ("G", "T", arch.text_width)),
        TensorSpec("pooled", "float32", ("G", arch.pooled_width)),
    )


def _network(recipe: Recipe, spec: EngineSpec, member: Member, narrow: tuple[str, ...]) -> Network:
    kept = recipe.positions[member.role]

    def load() -> nn.Module:
        import torch
        from diffusers import SD3Transformer2DModel

        from hsexport.mmdit.transformer import TokenTransformer

        model = load_whole(SD3Transformer2DModel, member.directory.transformer, torch_dtype=torch.float32)
        return TokenTransformer(model, kept, takes_cache=member.role == "large").eval()

    limits = {"positions": kept.rows * kept.columns}
    facts = {"positions": f"{kept.rows}x{kept.columns} of {kept.table_size}"}
    return Network(
        spec,
        load,
        TRACE_DIMS,
        limits,
        weights=member.directory.transformer,
        facts=facts,
        narrow_tensors=narrow,
        layers=member.config.num_layers,
    )
