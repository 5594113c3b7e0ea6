"""An engine's or network's outside as TensorRT tells it, held against the spec."""

from __future__ import annotations

from typing import Any, NamedTuple

from hsengines.spec import EngineSpec
from hsengines.trt.dtypes import numpy_name


class Outer(NamedTuple):
    """What is known of one input or output; `dtype` is numpy's name."""

    is_input: bool
    dtype: str
    rank: int

    def __str__(self) -> str:
        return f"{'input' if self.is_input else 'output'} {self.dtype} of {self.rank} dimensions"


def outside_of_spec(spec: EngineSpec) -> dict[str, Outer]:
    """What is wanted, by name."""
    inputs = {t.name: Outer(True, t.dtype, len(t.shape)) for t in spec.inputs}
    return inputs | {t.name: Outer(False, t.dtype, len(t.shape)) for t in spec.outputs}


def outside_of_network(network: Any) -> dict[str, Outer]:
    """What a parsed network has, by name."""
    inputs = [(True, network.get_input(index)) for index in range(network.num_inputs)]
    outputs = [(False, network.get_output(index)) for index in range(network.num_outputs)]
    return {t.name: Outer(is_input, numpy_name(t.dtype), len(t.shape)) for is_input, t in [*inputs, *outputs]}


def outside_of_engine(library: Any, engine: Any) -> dict[str, Outer]:
    """What a built engine has, by name."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return {
        name: Outer(
            engine.get_tensor_mode(name) == library.TensorIOMode.INPUT,
            numpy_name(engine.get_tensor_dtype(name)),
            len(engine.get_tensor_shape(name)),
        )
        for name in names
    }


def difference(found: dict[str, Outer], expected: dict[str, Outer]) -> str:
    """The first thing in which the two differ, in words; empty if nothing."""
    if found.keys() != expected.keys():
        return f"other tensors than its spec: {', '.join(sorted(found.keys() ^ expected.keys()))}"
    for name, tensor in expected.items():
        if found[name] != tensor:
            return f"another tensor '{name}' than its spec: found {found[name]}, expected {tensor}"
    return ""
