"""The step's modules as networks of a bundle."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hsengines.spec import Dim, EngineSpec, Profile, TensorSpec
from hsexport.networks.network import Network
from hsexport.networks.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

TRACE_DIMS = {"G": 6, "B": 3, "N": 12, "M": 5, "R": 7, "K": 11, "L": 4, "S": 9, "h": 4, "w": 8}


def _floats(name: str, *shape: Dim) -> TensorSpec:
    return TensorSpec(name, "float32", shape)


def _ints(name: str, *shape: Dim) -> TensorSpec:
    return TensorSpec(name, "int32", shape)


# Latents sum up small changes over many steps, so arithmetic on them stays fp32; beside a transformer it is nothing.
_NARROW: dict[str, tuple[str, ...]] = {
    "select_cache": ("everything", "selected"),
    "merge_cache": ("fresh", "everything", "merged"),
}


def _module(name: str, *arguments: int) -> nn.Module:
    from hsexport.networks import step_modules as modules

    return getattr(modules, name)(*arguments).eval()


class _Networks:
    """Makes networks for one recipe's ranges."""

    def __init__(self, recipe: Recipe) -> None:
        self._ranges = recipe.ranges()

    def __call__(
        self,
        name: str,
        module: Callable[[], nn.Module],
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        **limits: int | str,
    ) -> Network:
        used = {d for t in inputs for d in t.shape if isinstance(d, str)}
        profile = Profile("all", {dim: extents for dim, extents in self._ranges.items() if dim in used})
        spec, narrow = EngineSpec(name, inputs, outputs, (profile,)), _NARROW.get(name, ())
        dims = {d: TRACE_DIMS[d] for d in used}
        return Network(spec, module, dims, limits, narrow_tensors=narrow, stays_fp32=name not in _NARROW)


def step_networks(recipe: Recipe) -> list[Network]:
    """Everything between the transformers, in the order of a step."""
    return [*_velocity_networks(recipe), *_score_networks(recipe), *_cache_networks(recipe), _unpatchify(recipe)]


def _velocity_networks(recipe: Recipe) -> list[Network]:
    """prepare, guide, guide_held, blend, advance: from latents to a transformer, and from velocities to latents."""
    network, width = _Networks(recipe), recipe.facts.latent.token_width
    return [
        network(
            "prepare",
            lambda: _module("Prepare"),
            (
                _floats("latents", "B", "N", width),
                _ints("index", "G", "M"),
                _floats("timesteps", "S"),
                _ints("step", 1),
            ),
            (_floats("tokens", "G", "M", width), _floats("timestep", 1)),
            index="B*N",
            step="S",
        ),
        network(
            "guide",
            lambda: _module("Guide"),
            (_floats("velocity", "G", "M", width), _ints("cond", "B"), _ints("uncond", "B"), _floats("guidance", 1)),
            (_floats("guided", "B", "M", width), _floats("difference", "B", "M", width)),
            cond="G",
            uncond="G",
        ),
        network(
            "guide_held",
            lambda: _module("GuideHeld"),
            (
                _floats("velocity", "B", "M", width),
                _floats("difference", "B", "N", width),
                _ints("index", "B", "M"),
                _floats("excess", 1),
            ),
            (_floats("guided", "B", "M", width),),
            index="B*N",
        ),
        network(
            "blend",
            lambda: _module("Blend"),
            (
                _floats("active", "B", "M", width),
                _floats("elsewhere", "B", "N", width),
                _ints("index", "B", "N"),
            ),
            (_floats("blended", "B", "N", width),),
            index="B*N",
        ),
        network(
            "advance",
            lambda: _module("Advance"),
            (
                _floats("velocity", "B", "N", width),
                _floats("previous", "B", "N", width),
                _floats("latents", "B", "N", width),
                _floats("coefficients", "S", 2),
                _ints("step", 1),
            ),
            (_floats("next_latents", "B", "N", width), _ints("next_step", 1)),
            step="S",
        ),
    ]


def _score_networks(recipe: Recipe) -> list[Network]:
    """Score and spread: what a region is chosen by."""
    network, latent = _Networks(recipe), recipe.facts.latent
    velocity = ("B", "N", latent.token_width)
    return [
        network(
            "score",
            lambda: _module("Score"),
            (_floats("first", *velocity), _floats("second", *velocity)),
            (_floats("scores", "B", "N"),),
        ),
        network(
            "spread",
            lambda: _module("Spread", latent.channels),
            (_floats("velocity", *velocity),),
            (_floats("scores", "B", "N"),),
        ),
    ]


def _cache_networks(recipe: Recipe) -> list[Network]:
    """select_cache and merge_cache: keys and values out of a cache, and back into it."""
    network, heads, size = _Networks(recipe), recipe.facts.large.heads, recipe.facts.large.head_size
    return [
        network(
            "select_cache",
            lambda: _module("SelectCache"),
            (_floats("everything", "G", heads, "K", size), _ints("index", "L", heads, "R")),
            (_floats("selected", "L", heads, "R", size),),
            index="G*K",
        ),
        network(
            "merge_cache",
            lambda: _module("Merge"),
            (
                _floats("fresh", "G", heads, "M", size),
                _floats("everything", "G", heads, "N", size),
                _ints("index", "G", heads, "N"),
            ),
            (_floats("merged", "G", heads, "N", size),),
            index="G*N",
        ),
    ]


def _unpatchify(recipe: Recipe) -> Network:
    channels = recipe.facts.latent.channels
    return _Networks(recipe)(
        "unpatchify",
        lambda: _module("Unpatchify"),
        (_floats("tokens", "B", "N", recipe.facts.latent.token_width), _ints("order", channels, "h", "w")),
        (_floats("latents", "B", channels, "h", "w"),),
        order=f"{recipe.facts.latent.token_width}*N",
    )
