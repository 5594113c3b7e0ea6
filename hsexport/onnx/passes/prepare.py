"""Which passes a backend and a precision need, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from hsengines.traits import traits_of
from hsexport.networks.network import Fp32Rule
from hsexport.onnx.passes.cast_precision import CastPrecision
from hsexport.onnx.passes.graph_pass import GraphPass, PassError, apply
from hsexport.onnx.passes.ort_operators import OrtOperators
from hsexport.onnx.passes.ort_quantised import OrtIntegers, OrtTables
from hsexport.onnx.passes.quantise import Quantise, Storage
from hsexport.onnx.passes.single_output_attention import SingleOutputAttention

PASSES: dict[str, Callable[[], GraphPass]] = {
    "single_output_attention": SingleOutputAttention,
    "ort_operators": OrtOperators,
    "ort_integers": OrtIntegers,
    "ort_tables": OrtTables,
}
"""Passes over a graph as it was exported, or quantised, before any cast, as the traits of a backend name them."""


def prepare(
    model: ir.Model,
    backend: str,
    precision: str,
    narrow_tensors: Sequence[str] = (),
    rules: Sequence[Fp32Rule] = (),
    storage: Storage | None = None,
) -> tuple[CastPrecision | None, Quantise | None]:
    """Makes an exported fp32 graph what `backend` wants in `precision`, in place; cast and quantisation, if any were.

    `narrow_tensors` and `rules` as for CastPrecision; fp32 needs neither and ignores them. `storage`: of weights that
    are to be quantised. Raises PassError, also for a precision that the backend has no kernels for.
    """
    traits = traits_of(backend)
    if precision not in ("fp32", *traits.precisions):
        runs = " or ".join(traits.precisions)
        raise PassError(f"backend '{backend}' runs {runs}, not {precision}", "name another backend")
    cast = None if precision == "fp32" else CastPrecision(precision, narrow_tensors, rules)
    quantise = Quantise(storage) if storage else None
    own = [PASSES[name]() for name in traits.passes]
    behind = [PASSES[name]() for name in traits.quantised_passes] if quantise else []
    apply(model, *own, *([quantise] if quantise else []), *behind, *([cast] if cast else []))
    return cast, quantise
