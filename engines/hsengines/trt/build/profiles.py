"""The spec's profiles as TensorRT's, in the spec's order, so that both count them alike."""

from __future__ import annotations

from typing import Any

from hsengines.errors import EngineBuildError
from hsengines.spec import EngineSpec, Profile, TensorSpec

Extents = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, tuned-for and largest shape of one tensor."""


def add_profiles(builder: Any, config: Any, spec: EngineSpec) -> None:
    """Gives `config` a profile for each of the spec's. Raises EngineBuildError where one cannot be made.

    An extent may be zero at all three points (no cached tokens): TensorRT takes it and runs such layers as empty.
    """
    for wanted, profile in enumerate(spec.profiles):
        made = builder.create_optimization_profile()
        for tensor in spec.inputs:
            made.set_shape(tensor.name, *shapes_in(spec, profile, tensor))
        index = config.add_optimization_profile(made)
        if index != wanted:
            raise EngineBuildError(
                f"network '{spec.name}': TensorRT does not take profile '{profile.name}'",
                "see the ranges of its dimensions",
            )


def shapes_in(spec: EngineSpec, profile: Profile, tensor: TensorSpec) -> Extents:
    """The three shapes of `tensor` in `profile`. Raises EngineBuildError for a dimension without a range."""
    factors = {f for dim in tensor.shape if isinstance(dim, str) for f in dim.split("*") if not f.isdecimal()}
    if missing := sorted(factors - set(profile.dims)):
        raise EngineBuildError(
            f"network '{spec.name}', input '{tensor.name}': dimension {missing[0]} has no range in profile "
            f"'{profile.name}', and TensorRT needs one",
            "give the profile a range for it",
        )
    ranges = profile.dims.items()
    return (
        tensor.resolve({name: extents.minimum for name, extents in ranges}),
        tensor.resolve({name: extents.optimum for name, extents in ranges}),
        tensor.resolve({name: extents.maximum for name, extents in ranges}),
    )
