"""What ONNX's operator schemas say about half precision."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from hsexport.onnx.passes.errors import PassError

FOLLOWS_ATTRIBUTE = ("Cast",)
"""Operators whose float output's type is an attribute that a pass rewrites."""

TYPE_BLIND = ("Shape", "Size")
"""They take whatever comes and answer in integers: no cast is needed before them."""

KEPT_INPUTS = {"Resize": (1, 2)}
"""Inputs that describe the work rather than take part in it, and stay fp32."""


def schema_of(node: ir.Node, opset: int) -> onnx.defs.OpSchema:
    """A node's schema. Raises PassError for an operator that ONNX does not know."""
    try:
        return onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError as err:
        raise PassError(f"node '{node.name}' is a {node.op_type}, which opset {opset} does not have") from err


def takes(node: ir.Node, opset: int, dtype: ir.DataType) -> bool:
    """Whether a node's fp32 inputs and outputs may all become `dtype`.

    Not where the schema lacks the type, and not where an output's type follows no input (ConstantOfShape, EyeLike):
    such a node would have to be told the type another way.
    """
    if node.op_type in FOLLOWS_ATTRIBUTE:
        return True
    schema = schema_of(node, opset)
    wanted = f"tensor({dtype.name.lower()})"
    inputs = [_formal(schema.inputs, i) for i in _half_inputs(node)]
    outputs = [_formal(schema.outputs, i) for i, value in enumerate(node.outputs) if value.dtype == ir.DataType.FLOAT]
    followed = {formal.type_str for formal in schema.inputs}
    return all(wanted in formal.types for formal in (*inputs, *outputs)) and all(
        formal.type_str in followed for formal in outputs
    )


def _half_inputs(node: ir.Node) -> list[int]:
    """The places of a node's fp32 inputs that follow its precision."""
    kept = KEPT_INPUTS.get(node.op_type, ())
    return [
        place
        for place, value in enumerate(node.inputs)
        if value is not None and value.dtype == ir.DataType.FLOAT and place not in kept
    ]


def _formal(formals: Sequence[onnx.defs.OpSchema.FormalParameter], place: int) -> onnx.defs.OpSchema.FormalParameter:
    """The one at a place; the last may be variadic."""
    return formals[min(place, len(formals) - 1)]
