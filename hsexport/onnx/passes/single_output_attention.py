"""Attention with one output, as TensorRT takes it."""

from __future__ import annotations

import onnx_ir as ir

from hsexport.onnx.passes.errors import PassError
from hsexport.onnx.passes.flat import check_flat


def single_output_attention(model: ir.Model) -> int:
    """Drops the unused outputs of every Attention (present keys and values, scores), in place; how many it dropped.

    Preconditions: no subgraphs or functions; nobody reads these outputs, and no Attention takes past keys or values,
    which belong to them. Raises PassError.
    """
    check_flat(model, "single_output_attention")
    return sum(_trim(node) for node in model.graph if node.op_type == "Attention")


def _trim(node: ir.Node) -> int:
    extra = node.outputs[1:]
    for value in extra:
        if value.uses() or value.is_graph_output():
            raise PassError(
                f"single_output_attention: '{node.name}' has its output '{value.name}' in use, expected only the first",
                "join keys and values outside the operator",
            )
    if any(value is not None for value in node.inputs[4:6]):
        raise PassError(
            f"single_output_attention: '{node.name}' takes past keys and values, expected none",
            "join keys and values outside the operator",
        )
    if extra:
        node.resize_outputs(1)
    return len(extra)
