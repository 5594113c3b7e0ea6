"""The step's modules as networks of a bundle: one line of a table each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hsengines.spec import DimRange, EngineSpec, Profile, TensorSpec
from hsexport.networks.network import Network
from hsruntime.facts import Facts

if TYPE_CHECKING:
    from torch import nn

TRACE_DIMS = {"G": 6, "B": 3, "N": 12, "M": 5, "R": 7, "K": 11, "L": 4, "S": 9, "h": 4, "w": 8}


STEP = {
    "prepare": ("Prepare", "latents: B N P, index: G M < B*N", "tokens: G M P"),
    "guide": (
        "Guide",
        "velocity: G M P, cond: B < G, uncond: B < G, guidance: 1",
        "guided: B M P, difference: B M P",
    ),
    "guide_held": (
        "GuideHeld",
        "velocity: B M P, difference: B N P, index: B M < B*N, excess: 1",
        "guided: B M P",
    ),
    "blend": ("Blend", "active: B M P, elsewhere: B N P, index: B N < B*N", "blended: B N P"),
    "advance": (
        "Advance",
        "velocity: B N P, previous: B N P, clean: B N P, latents: B N P, coefficients: S 5, step: 1 < S",
        "next_latents: B N P, next_clean: B N P, next_step: 1 <",
    ),
    "extrapolate": (
        "Extrapolate",
        "last: B N P, second: B N P, third: B N P, weights: S 3, step: 1 < S",
        "velocity: B N P",
    ),
    "keep": (
        "Keep",
        "latents: B N P, original: B N P, noise: B N P, drawn: B N P, reached: S, step: 1 < S",
        "kept: B N P",
    ),
    "score": ("Score", "first: B N P, second: B N P", "scores: B N"),
    "spread": ("Spread C", "velocity: B N P", "scores: B N"),
    "select_cache": ("SelectCache", "everything: G K H D, index: L R < G*K", "selected: L R H D"),
    "merge_cache": ("Merge", "fresh: G M H D, everything: G N H D, index: G N < G*N", "merged: G N H D"),
    "unpatchify": ("Unpatchify", "tokens: B N P, order: C h w < P*N", "latents: B C h w"),
}
"""Everything between the transformers, in the order of a step: a module with its arguments, its inputs and its outputs.

`name: extents` are float32, `name: extents < limit` int32 below it. The letters P, C, H and D are a token's width, the
latent's channels, and large's heads and their size.
"""
NARROW = {"select_cache": ("everything", "selected"), "merge_cache": ("fresh", "everything", "merged")}
"""What may become half. Latents sum up small changes over many steps, so all arithmetic on them stays fp32; beside a
transformer it is nothing."""


def step_networks(facts: Facts, ranges: Mapping[str, DimRange]) -> list[Network]:
    """All of them, for one pair."""
    return [_network(name, *row, facts, ranges) for name, row in STEP.items()]


def _network(name: str, made: str, takes: str, gives: str, facts: Facts, ranges: Mapping[str, DimRange]) -> Network:
    latent, large = facts.latent, facts.large
    numbers = {"P": latent.token_width, "C": latent.channels, "H": large.heads, "D": large.head_size}
    inputs, limits = _tensors(takes, numbers)
    outputs, _ = _tensors(gives, numbers)
    used = {dim for tensor in inputs for dim in tensor.shape if isinstance(dim, str)}
    profile = Profile("all", {dim: extents for dim, extents in ranges.items() if dim in used})
    module, *arguments = made.split()

    def skeleton() -> nn.Module:
        from hsexport.networks import step_modules

        found: nn.Module = getattr(step_modules, module)(*(numbers[letter] for letter in arguments))
        return found.eval()

    return Network(
        EngineSpec(name, inputs, outputs, (profile,)),
        skeleton,
        {dim: TRACE_DIMS[dim] for dim in used},
        limits,
        narrow_tensors=NARROW.get(name, ()),
        stays_fp32=name not in NARROW,
    )


def _tensors(text: str, numbers: Mapping[str, int]) -> tuple[tuple[TensorSpec, ...], dict[str, str]]:
    """Specs, and what bounds the integers among them from above."""
    specs, limits = [], {}
    for each in text.split(", "):
        name, _, rest = each.partition(": ")
        extents, integer, limit = rest.partition("<")
        shape = tuple(int(e) if e.isdecimal() else numbers.get(e, e) for e in extents.split())
        specs.append(TensorSpec(name, "int32" if integer else "float32", shape))
        if limit.strip():
            limits[name] = "*".join(str(numbers.get(factor, factor)) for factor in limit.strip().split("*"))
    return tuple(specs), limits
