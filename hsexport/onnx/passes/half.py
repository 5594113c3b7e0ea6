"""Half precision: which operators have it by their schemas, and tensors turned to it and back while they are saved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir

from hsexport.onnx.passes.graph_pass import PassError
from hsexport.onnx.weights import CheckpointTensor, DerivedTensor

HALVES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
"""A precision that is narrower than fp32, as users name it, to its element type."""


def half_type(precision: str) -> ir.DataType:
    """The element type of "fp16" or "bf16". Raises PassError for another precision."""
    if precision not in HALVES:
        raise PassError(f"precision {precision} is no half precision", "choose fp16 or bf16")
    return HALVES[precision]


def narrowed(tensor: ir.TensorProtocol, name: str, dtype: ir.DataType) -> ir.LazyTensor:
    """An fp32 tensor in `dtype`, converted whenever it is read.

    float32's own lowest and highest number mean "as far as it goes" (masks are filled with them) and become
    `dtype`'s. A checkpoint's tensor that is in `dtype` already is taken as it is. Reading raises PassError if another
    value is beyond `dtype`'s range; infinities stay what they are.
    """
    if isinstance(tensor, CheckpointTensor) and tensor.in_type(dtype).is_as_stored:
        return tensor.in_type(dtype)

    def convert() -> ir.TensorProtocol:
        return ir.Tensor(_narrow_array(tensor.numpy(), name, dtype), dtype=dtype, name=name)

    return DerivedTensor(tensor, convert, dtype)


def widened(tensor: ir.TensorProtocol, name: str) -> ir.LazyTensor:
    """A half tensor's values in fp32, converted whenever it is read."""

    def convert() -> ir.TensorProtocol:
        return ir.Tensor(tensor.numpy().astype(np.float32), name=name)

    return ir.LazyTensor(convert, ir.DataType.FLOAT, ir.Shape(tensor.shape.numpy()), name=name)


def _narrow_array(array: np.ndarray, name: str, dtype: ir.DataType) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = array.astype(dtype.numpy())
    lost = ~np.isfinite(half) & np.isfinite(array)
    if not lost.any():
        return half
    limits = np.finfo(np.float32)
    extreme = lost & ((array == limits.min) | (array == limits.max))
    if (lost & ~extreme).any():
        worst = array.flat[int(np.argmax(np.abs(np.where(lost & ~extreme, array, 0))))]
        raise PassError(
            f"tensor '{name}' holds {worst:.4g}, beyond the reach of {dtype.name.lower()}",
            "keep the module that reads it in fp32 (--fp32 PATTERN), or choose bf16",
        )
    return np.where(extreme, np.nextafter(half, np.zeros_like(half)), half)


TYPE_BLIND = ("Shape", "Size")
"""They take whatever comes and answer in integers: no cast is needed before them."""

KEPT_INPUTS = {"Resize": (1, 2)}
"""Inputs that describe the work rather than take part in it, and stay fp32."""


def takes(node: ir.Node, opset: int, dtype: ir.DataType) -> bool:
    """Whether a node's fp32 inputs and outputs may all become `dtype`.

    Not where the schema lacks the type, and not where an output's type follows no input (ConstantOfShape, EyeLike):
    such a node would have to be told the type another way. Raises PassError for an operator that ONNX does not know.
    """
    if node.op_type in ("Cast", "DequantizeLinear"):  # an attribute that a pass rewrites; its scale's type
        return True
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError as err:
        raise PassError(f"node '{node.name}' is a {node.op_type}, which opset {opset} does not have") from err
    wanted, kept = f"tensor({dtype.name.lower()})", KEPT_INPUTS.get(node.op_type, ())
    inputs = [formal for place, formal in _fp32(node.inputs, schema.inputs) if place not in kept]
    outputs = [formal for _, formal in _fp32(node.outputs, schema.outputs)]
    followed = {formal.type_str for formal in schema.inputs}
    return all(wanted in formal.types for formal in (*inputs, *outputs)) and all(
        formal.type_str in followed for formal in outputs
    )


def _fp32(
    values: Sequence[ir.Value | None], formals: Sequence[onnx.defs.OpSchema.FormalParameter]
) -> list[tuple[int, onnx.defs.OpSchema.FormalParameter]]:
    """Place and schema of the fp32 ones among a node's inputs or outputs; the last formal may be variadic."""
    fp32 = [place for place, value in enumerate(values) if value is not None and value.dtype == ir.DataType.FLOAT]
    return [(place, formals[min(place, len(formals) - 1)]) for place in fp32]
