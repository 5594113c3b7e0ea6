"""Which passes a backend and a precision need, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from hsexport.onnx.passes.errors import PassError
from hsexport.onnx.passes.islands import Island
from hsexport.onnx.passes.precision import CastReport, cast_precision
from hsexport.onnx.passes.single_output_attention import single_output_attention

BACKEND_PASSES: dict[str, tuple[Callable[[ir.Model], object], ...]] = {
    "ort-cpu": (),
    "ort-cuda": (),
    "tensorrt": (single_output_attention,),
    "tensorrt-rtx": (single_output_attention,),
    "null": (),
}
"""Passes over a graph as it was exported, before any cast."""

FP32_ONLY = ("ort-cpu",)


def prepare(
    model: ir.Model, backend: str, precision: str, narrow_tensors: Sequence[str] = (), islands: Sequence[Island] = ()
) -> CastReport:
    """Makes an exported fp32 graph what `backend` wants in `precision`, in place; ort-cpu takes it as it is.

    `narrow_tensors` and `islands` as for cast_precision; fp32 needs neither and ignores them. Preconditions are those
    of the passes. Raises PassError, also for a backend that is not known and a precision it has no kernels for.
    """
    if backend not in BACKEND_PASSES:
        raise PassError(f"no passes are known for backend '{backend}'", f"choose one of {', '.join(BACKEND_PASSES)}")
    if precision != "fp32" and backend in FP32_ONLY:
        raise PassError(f"backend '{backend}' runs fp32, not {precision}", "name another backend")
    for step in BACKEND_PASSES[backend]:
        step(model)
    if precision != "fp32":
        return cast_precision(model, precision, narrow_tensors, islands)
    floats = sum(any(v.dtype == ir.DataType.FLOAT for v in node.outputs) for node in model.graph)
    return CastReport("fp32", 0, floats, 0)


def holds_weights(backend: str) -> bool:
    """Whether the backend's engines hold their weights; ONNX Runtime's are the graph with its weights beside it."""
    return backend in ("tensorrt", "tensorrt-rtx")
