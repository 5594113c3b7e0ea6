"""Checks that every backend makes before it fixes addresses."""

from __future__ import annotations

from collections.abc import Mapping

from hsengines.backend import Tensor
from hsengines.errors import ShapeError
from hsengines.spec import EngineSpec, TensorSpec


def check_binding(spec: EngineSpec, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> dict[str, int]:
    """The extents of a binding. Raises ShapeError where names, dtypes or shapes do not fit `spec`."""
    dims = spec.dims_of({name: tensor.shape for name, tensor in inputs.items()})
    spec.check_dims(dims)
    _check_tensors(spec.name, spec.inputs, inputs, dims)
    _check_tensors(spec.name, spec.outputs, outputs, dims)
    return dims


def _check_tensors(
    engine: str, specs: tuple[TensorSpec, ...], tensors: Mapping[str, Tensor], dims: Mapping[str, int]
) -> None:
    unknown = set(tensors) - {s.name for s in specs}
    if unknown:
        raise ShapeError(f"engine '{engine}' has no tensor named {', '.join(sorted(unknown))}")
    for spec in specs:
        if spec.name not in tensors:
            raise ShapeError(f"engine '{engine}': nothing is bound to '{spec.name}'")
        tensor, shape = tensors[spec.name], spec.resolve(dims)
        if tensor.dtype.name != spec.dtype or tensor.shape != shape:
            found, expected = f"{tensor.dtype.name}{tensor.shape}", f"{spec.dtype}{shape}"
            raise ShapeError(f"engine '{engine}', tensor '{spec.name}': found {found}, expected {expected}")
