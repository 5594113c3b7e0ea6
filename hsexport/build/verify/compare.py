"""One engine's outputs beside a reference's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

import numpy as np

from hsengines.backend import Engine
from hsengines.device import Device
from hsengines.errors import HSError
from hsengines.spec import numpy_dtype
from hsengines.weights import UNQUANTIZED

_TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
_OF_WEIGHTS = {UNQUANTIZED: 0.0, "int8": 1e-1, "fp8": 5e-1, "int8-full": 5e-1, "int4": 5e-1, "nvfp4": 5e-1}


def tolerance_of(precision: str, weights: str = UNQUANTIZED) -> float:
    """How far an engine may lie from its fp32 reference: largest error over the output's largest value.

    fp32 sums in another order than torch and comes within 1e-6 to 1e-5; fp16 keeps 11 bits of each number, bf16 8,
    and errors add up from block to block. Quantised weights come on top: over random inputs, which are harder than
    pictures' own. Raises HSError for a precision or a format of weights that this version does not know.
    """
    if precision not in _TOLERANCE:
        raise HSError(f"engines of precision {precision} cannot be compared by this version", "upgrade hsexport")
    if weights not in _OF_WEIGHTS:
        raise HSError(f"engines with weights in {weights} cannot be compared by this version", "upgrade hsexport")
    return _TOLERANCE[precision] + _OF_WEIGHTS[weights]


@dataclass(frozen=True)
class Comparison:
    """How far an engine lay from its reference; infinitely far with a number that is not finite.

    `max_relative` is the largest over the outputs of: largest error over the reference's largest value.
    """

    engine: str
    reference: str
    max_absolute: float
    max_relative: float
    tolerance: float
    passed: bool

    @property
    def finite(self) -> bool:
        """Whether every number that came out was finite."""
        return isfinite(self.max_absolute)


def engine_outputs(engine: Engine, device: Device, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Runs an engine once over host arrays, which are cast to what it takes; half precision comes back as fp32."""
    spec = engine.spec
    dims = spec.dims_of({name: array.shape for name, array in inputs.items()})
    outputs = {t.name: device.empty(t.resolve(dims), t.dtype) for t in spec.outputs}
    given = {t.name: device.upload(np.asarray(inputs[t.name], numpy_dtype(t.dtype))) for t in spec.inputs}
    binding = engine.bind(given, outputs)
    binding.enqueue()
    found = {name: tensor.read() for name, tensor in outputs.items()}
    binding.close()
    return {name: array.astype(np.float32) if array.itemsize == 2 else array for name, array in found.items()}


def compare(
    engine: Engine,
    device: Device,
    inputs: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    reference: str,
    tolerance: float,
) -> Comparison:
    """Runs an engine over `inputs` and sets its outputs beside `expected`, which `reference` gave."""
    found = engine_outputs(engine, device, inputs)
    relative = max(largest_difference(found[n], expected[n]) for n in expected)
    absolute = max(_difference(found[n], expected[n]) for n in expected)
    return Comparison(engine.spec.name, reference, absolute, relative, tolerance, passed=relative <= tolerance)


def largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest error over the largest value expected; infinite where numbers came that are not finite."""
    return _difference(found, expected) / _scale(expected)


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found.astype(np.float64) - expected).max(initial=0))


def _scale(expected: np.ndarray) -> float:
    """What an output's errors are measured against: its largest value; next to nothing counts as a millionth."""
    return max(1e-6, float(np.abs(expected).max(initial=0)))
