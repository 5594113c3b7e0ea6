"""Large and small as networks of a bundle."""

from __future__ import annotations

from collections.abc import Mapping

from diffusers import SD3Transformer2DModel
from hsengines.spec import DimRange, EngineSpec, Profile, TensorSpec
from hsruntime.manifest import Latent, PositionTable, Transformer

from hsexport.mmdit.transformer import TokenTransformer
from hsexport.network import Network

TRACE_DIMS = {"G": 2, "M": 6, "R": 10, "T": 5, "N": 12}


def cache_names(prefix: str, layers: int) -> list[str]:
    """Tensor names of a cache, layer by layer, key before value: past_k_0, past_v_0, past_k_1, ..."""
    return [f"{prefix}_{which}_{layer}" for layer in range(layers) for which in ("k", "v")]


def _common_inputs(arch: Transformer, latent: Latent, tokens: str) -> list[TensorSpec]:
    return [
        TensorSpec("tokens", "float32", ("G", tokens, latent.token_width)),
        TensorSpec("positions", "int32", ("G", tokens)),
        TensorSpec("timestep", "float32", (1,)),
        TensorSpec("text", "float32", ("G", "T", arch.text_width)),
        TensorSpec("pooled", "float32", ("G", arch.pooled_width)),
    ]


def large_network(
    model: SD3Transformer2DModel,
    arch: Transformer,
    latent: Latent,
    kept: PositionTable,
    ranges: Mapping[str, DimRange],
) -> Network:
    """Large: M active tokens, R cached ones; R = 0 makes it the whole model."""
    slot = ("G", arch.heads, "R", arch.head_size)
    present = ("G", arch.heads, "M", arch.head_size)
    past = [TensorSpec(n, "float32", slot) for n in cache_names("past", arch.attention_layers)]
    presents = [TensorSpec(n, "float32", present) for n in cache_names("present", arch.attention_layers)]
    velocity = TensorSpec("velocity", "float32", ("G", "M", latent.token_width))
    rows, tokens, text = ranges["G"], ranges["N"], ranges["T"]
    region = DimRange(1, max(1, round(0.3 * tokens.optimum)), tokens.maximum)
    cached = DimRange(0, tokens.optimum - region.optimum, tokens.maximum - 1)
    profiles = (
        Profile("full", {"G": rows, "M": tokens, "R": DimRange(0, 0, 0), "T": text}),
        Profile("region", {"G": rows, "M": region, "R": cached, "T": text}),
    )
    inputs = (*_common_inputs(arch, latent, "M"), *past)
    spec = EngineSpec("large", inputs, (velocity, *presents), profiles)
    module = TokenTransformer(model, kept, takes_cache=True).eval()
    return Network(spec, module, TRACE_DIMS, {"positions": kept.rows * kept.columns})


def small_network(
    model: SD3Transformer2DModel,
    arch: Transformer,
    latent: Latent,
    kept: PositionTable,
    ranges: Mapping[str, DimRange],
) -> Network:
    """Small: always the whole picture, no cache."""
    velocity = TensorSpec("velocity", "float32", ("G", "N", latent.token_width))
    profiles = (Profile("full", {name: ranges[name] for name in ("G", "N", "T")}),)
    spec = EngineSpec("small", tuple(_common_inputs(arch, latent, "N")), (velocity,), profiles)
    module = TokenTransformer(model, kept, takes_cache=False).eval()
    return Network(spec, module, TRACE_DIMS, {"positions": kept.rows * kept.columns})
