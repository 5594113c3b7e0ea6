"""One engine's outputs beside a reference's, through polygraphy's comparator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

import numpy as np

from hsengines.backend import Device, Engine
from hsengines.dtypes import numpy_dtype
from hsengines.errors import HSError

_TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}


def tolerance_of(precision: str) -> float:
    """How far an engine may lie from its fp32 reference: largest error over the output's largest value.

    fp32 sums in another order than torch and comes within 1e-6 to 1e-5; fp16 keeps 11 bits of each number, bf16 8,
    and errors add up from block to block. Raises HSError for a precision that this version does not know.
    """
    if precision not in _TOLERANCE:
        raise HSError(f"engines of precision {precision} cannot be compared by this version", "upgrade hsexport")
    return _TOLERANCE[precision]


@dataclass(frozen=True)
class Comparison:
    """How far an engine lay from its reference, and polygraphy's verdict."""

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
    found = {name: _widened(tensor.read()) for name, tensor in outputs.items()}
    binding.close()
    return found


def compare(
    engine: Engine,
    device: Device,
    inputs: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    reference: str,
    tolerance: float,
) -> Comparison:
    """Runs `engine` over `inputs` and sets its outputs beside `expected`."""
    found = engine_outputs(engine, device, inputs)
    differences = {n: _difference(found[n], expected[n]) for n in expected}
    relative = max(differences[n] / _scale(expected[n]) for n in expected)
    passed = _polygraphy_verdict(engine.spec.name, found, dict(expected), tolerance)
    return Comparison(engine.spec.name, reference, max(differences.values()), relative, tolerance, passed)


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.itemsize == 2 else array


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found.astype(np.float64) - expected).max(initial=0))


def _scale(expected: np.ndarray) -> float:
    """What an output's errors are measured against: its largest value; next to nothing counts as a millionth."""
    return max(1e-6, float(np.abs(expected).max(initial=0)))


def _polygraphy_verdict(
    name: str, found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float
) -> bool:
    """Polygraphy's own comparison: absolute tolerance scaled by each output's largest value, NaN never passes."""
    from polygraphy.comparator import Comparator, CompareFunc, IterationResult, RunResults
    from polygraphy.logger import G_LOGGER

    results = RunResults()
    results.append((f"{name} engine", [IterationResult(found)]))
    results.append((f"{name} reference", [IterationResult(expected)]))
    scaled = {n: tolerance * _scale(a) for n, a in expected.items()}
    check = CompareFunc.simple(atol=scaled, rtol=0.0, check_error_stat="max", fail_fast=True)
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        return bool(Comparator.compare_accuracy(results, compare_func=check))
