"""What a step of a transformer over tokens takes and answers, beside what its family conditions it by."""

from __future__ import annotations

from collections.abc import Sequence

from hsengines.spec import DimRange, EngineSpec, Profile, TensorSpec
from hsexport.families.recipe import Recipe
from hsruntime.facts import Transformer

TRACE_DIMS = {"G": 2, "M": 6, "R": 10, "T": 5, "U": 4, "N": 12, "S": 3}
REGION_RATIO = 0.3  # what the region profile is tuned for


def cached_step(recipe: Recipe, conditions: Sequence[TensorSpec], *further: TensorSpec) -> EngineSpec:
    """Large's step: M active image tokens, R cached ones, T live text tokens, U cached ones.

    R = U = 0 makes it the whole model; T = 0 leaves the text stream to the cache. It answers `further` last.
    """
    arch, ranges = recipe.facts.large, recipe.ranges()
    past = [*_slots(arch, "past", arch.image_slots, "R"), *_slots(arch, "past_text", arch.text_slots, "U")]
    presents = [*_slots(arch, "present", arch.image_slots, "M"), *_slots(arch, "present_text", arch.text_slots, "T")]
    rows, tokens, text, steps = ranges["G"], ranges["N"], ranges["T"], ranges["S"]
    region = DimRange(1, max(1, round(REGION_RATIO * tokens.optimum)), tokens.maximum)
    cached = DimRange(0, tokens.optimum - region.optimum, max(1, tokens.maximum - 1))
    live, kept = DimRange(0, text.optimum, text.maximum), DimRange(0, 0, text.maximum)
    none = DimRange(0, 0, 0)
    both = (
        Profile("full", {"G": rows, "M": tokens, "R": none, "T": text, "U": none, "S": steps}),
        Profile("region", {"G": rows, "M": region, "R": cached, "T": live, "U": kept, "S": steps}),
    )
    inputs = (*_of_tokens(recipe, "M"), *conditions, *past)
    return EngineSpec("large", inputs, (_velocity(recipe, "M"), *presents, *further), both)


def whole_step(recipe: Recipe, name: str, conditions: Sequence[TensorSpec]) -> EngineSpec:
    """A step that always takes the whole picture, and no cache."""
    inputs = (*_of_tokens(recipe, "N"), *conditions)
    return EngineSpec(name, inputs, (_velocity(recipe, "N"),), profiles(recipe, "G", "N", "T", "S"))


RESIDUAL = ("residual_image", "residual_text")


def residual(recipe: Recipe, tokens: str) -> tuple[TensorSpec, ...]:
    """What large's middle blocks add to both streams, for a light form of it."""
    width = recipe.facts.large.width
    return tuple(TensorSpec(n, "float32", ("G", t, width)) for n, t in zip(RESIDUAL, (tokens, "T"), strict=True))


def profiles(recipe: Recipe, *dims: str) -> tuple[Profile, ...]:
    """One, over the whole range of each dimension."""
    return (Profile("full", {name: recipe.ranges()[name] for name in dims}),)


def _slots(arch: Transformer, prefix: str, layers: int, tokens: str) -> list[TensorSpec]:
    """Of a cache, layer by layer, key before value: past_k_0, past_v_0, past_k_1, ..."""
    shape = ("G", tokens, arch.heads, arch.head_size)
    return [TensorSpec(f"{prefix}_{which}_{layer}", "float32", shape) for layer in range(layers) for which in "kv"]


def _of_tokens(recipe: Recipe, tokens: str) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("tokens", "float32", ("G", tokens, recipe.facts.latent.token_width)),
        TensorSpec("positions", "int32", ("G", tokens)),
        TensorSpec("step", "int32", (1,)),
    )


def _velocity(recipe: Recipe, tokens: str) -> TensorSpec:
    return TensorSpec("velocity", "float32", ("G", tokens, recipe.facts.latent.token_width))
