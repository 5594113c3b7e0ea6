"""Which passes a backend and a precision need, in order."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from hsengines.traits import traits_of
from hsexport.onnx.passes.errors import PassError
from hsexport.onnx.passes.islands import Island
from hsexport.onnx.passes.precision import CastReport, cast_precision
from hsexport.onnx.passes.single_output_attention import single_output_attention

PASSES = {"single_output_attention": single_output_attention}
"""Passes over a graph as it was exported, before any cast, as the traits of a backend name them."""


def prepare(
    model: ir.Model, backend: str, precision: str, narrow_tensors: Sequence[str] = (), islands: Sequence[Island] = ()
) -> CastReport:
    """Makes an exported fp32 graph what `backend` wants in `precision`, in place.

    `narrow_tensors` and `islands` as for cast_precision; fp32 needs neither and ignores them. Preconditions are those
    of the passes. Raises PassError, also for a precision that the backend has no kernels for.
    """
    traits = traits_of(backend)
    if precision not in ("fp32", *traits.precisions):
        runs = " or ".join(traits.precisions)
        raise PassError(f"backend '{backend}' runs {runs}, not {precision}", "name another backend")
    for name in traits.passes:
        PASSES[name](model)
    if precision != "fp32":
        return cast_precision(model, precision, narrow_tensors, islands)
    floats = sum(any(v.dtype == ir.DataType.FLOAT for v in node.outputs) for node in model.graph)
    return CastReport("fp32", 0, floats, 0)
