"""Which passes a backend and a precision need, in order."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from hsengines.traits import traits_of
from hsexport.networks.network import Fp32Rule
from hsexport.onnx.passes.cast_precision import CastPrecision
from hsexport.onnx.passes.graph_pass import PassError, apply
from hsexport.onnx.passes.ort_operators import OrtOperators
from hsexport.onnx.passes.single_output_attention import SingleOutputAttention

PASSES = {"single_output_attention": SingleOutputAttention, "ort_operators": OrtOperators}
"""Passes over a graph as it was exported, before any cast, as the traits of a backend name them."""


def prepare(
    model: ir.Model, backend: str, precision: str, narrow_tensors: Sequence[str] = (), rules: Sequence[Fp32Rule] = ()
) -> CastPrecision | None:
    """Makes an exported fp32 graph what `backend` wants in `precision`, in place; the cast, if there was one.

    `narrow_tensors` and `rules` as for CastPrecision; fp32 needs neither and ignores them. Raises PassError, also
    for a precision that the backend has no kernels for.
    """
    traits = traits_of(backend)
    if precision not in ("fp32", *traits.precisions):
        runs = " or ".join(traits.precisions)
        raise PassError(f"backend '{backend}' runs {runs}, not {precision}", "name another backend")
    cast = None if precision == "fp32" else CastPrecision(precision, narrow_tensors, rules)
    apply(model, *(PASSES[name]() for name in traits.passes), *([cast] if cast else []))
    return cast
