"""What both builders are given: the parsed network, and its profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hsengines.errors import EngineBuildError
from hsengines.spec import EngineSpec, Profile, TensorSpec
from hsengines.trt.build.log import Log, logger_of
from hsengines.trt.build.refusals import parse_refusal
from hsengines.trt.inspection import signature_of_network


def builder_of(library: Any, title: str) -> Any:
    """A builder of `library`, which messages call `title`. Raises EngineBuildError."""
    try:
        return library.Builder(logger_of(library))
    except TypeError as err:  # what the binding makes of a null pointer
        raise EngineBuildError(
            f"{title} cannot make a builder here", "it needs an NVIDIA GPU and its driver; tensorrt-rtx does not"
        ) from err


def parsed(library: Any, title: str, builder: Any, onnx: Path, spec: EngineSpec, log: Log) -> tuple[Any, Any]:
    """The network of the ONNX file, and its parser, which holds the weights.

    Raises EngineBuildError where it does not parse, or is not what the spec says.
    """
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    network.name = spec.name
    parser = library.OnnxParser(network, logger_of(library))
    if not parser.parse_from_file(str(onnx)):
        raise parse_refusal(title, spec.name, parser, log)
    if wrong := spec.difference(signature_of_network(network)):
        raise EngineBuildError(f"network '{spec.name}' has {wrong}", "export the network again", log.text())
    return network, parser


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
