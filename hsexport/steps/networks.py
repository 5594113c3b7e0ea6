"""The step's modules as networks of a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsengines.spec import Dim, EngineSpec, Profile, TensorSpec
from hsexport.network import Network
from hsexport.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

TRACE_DIMS = {"G": 6, "B": 3, "N": 12, "M": 5, "R": 7, "S": 9, "S1": 10, "h": 4, "w": 8}


def _floats(name: str, *shape: Dim) -> TensorSpec:
    return TensorSpec(name, "float32", shape)


def _ints(name: str, *shape: Dim) -> TensorSpec:
    return TensorSpec(name, "int32", shape)


def _euler_inputs(width: int) -> tuple[TensorSpec, ...]:
    return (
        _floats("latents", "B", "N", width),
        _ints("told", "B"),
        _ints("untold", "B"),
        _floats("guidance", 1),
        _floats("sigmas", "S1"),
        _ints("step", 1),
    )


def _euler_outputs(width: int) -> tuple[TensorSpec, ...]:
    return (_floats("next_latents", "B", "N", width), _floats("guided", "B", "N", width), _ints("next_step", 1))


# Latents sum up small changes over many steps, so arithmetic on them stays fp32; beside a transformer it is nothing.
_NARROW: dict[str, tuple[str, ...]] = {"select_cache": ("everything", "selected")}

_EULER_LIMITS: dict[str, int | str] = {"told": "G", "untold": "G", "step": 8}


def _module(name: str) -> nn.Module:
    from hsexport.steps import modules

    return getattr(modules, name)().eval()


def step_networks(recipe: Recipe) -> list[Network]:
    """prepare, advance, advance_blended, score, select_cache and unpatchify."""
    width, ranges, large = recipe.latent.token_width, recipe.ranges(), recipe.large

    def network(
        name: str, module: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], **limits: int | str
    ) -> Network:
        used = {d for t in inputs for d in t.shape if isinstance(d, str)}
        profile = Profile("all", {name: ranges[name] for name in ranges if name in used})
        dims = {d: TRACE_DIMS[d] for d in used}
        spec, narrow = EngineSpec(name, inputs, outputs, (profile,)), _NARROW.get(name, ())
        return Network(
            spec, lambda: _module(module), dims, limits, narrow_tensors=narrow, stays_fp32=name not in _NARROW
        )

    slots = (large.heads, large.head_size)
    return [
        network(
            "prepare",
            "Prepare",
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
            "advance",
            "Advance",
            (_floats("velocity", "G", "N", width), *_euler_inputs(width)),
            _euler_outputs(width),
            **_EULER_LIMITS,
        ),
        network(
            "advance_blended",
            "AdvanceBlended",
            (
                _floats("velocity_large", "G", "M", width),
                _floats("velocity_small", "G", "N", width),
                _ints("blend", "B", "N"),
                *_euler_inputs(width),
            ),
            _euler_outputs(width),
            blend="B*N",
            **_EULER_LIMITS,
        ),
        network(
            "score",
            "Score",
            (_floats("first", "B", "N", width), _floats("second", "B", "N", width)),
            (_floats("scores", "B", "N"),),
        ),
        network(
            "select_cache",
            "SelectCache",
            (_floats("everything", "G", slots[0], "N", slots[1]), _ints("index", "G", slots[0], "R")),
            (_floats("selected", "G", slots[0], "R", slots[1]),),
            index="G*N",
        ),
        network(
            "unpatchify",
            "Unpatchify",
            (_floats("tokens", "B", "N", width), _ints("order", recipe.latent.channels, "h", "w")),
            (_floats("latents", "B", recipe.latent.channels, "h", "w"),),
            order=f"{width}*N",
        ),
    ]
