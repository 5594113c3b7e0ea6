"""Attention with one output, as TensorRT takes it."""

from __future__ import annotations

import onnx_ir as ir

from hsexport.onnx.passes.graph_pass import GraphPass


class SingleOutputAttention(GraphPass):
    """Drops the unused outputs of every Attention: present keys and values, scores.

    Requires that nobody reads them, and that no Attention takes past keys or values, which belong to them.
    """

    def requires(self, model: ir.Model) -> None:
        """Raises PassError."""
        super().requires(model)
        hint = "join keys and values outside the operator"
        for node in _attentions(model):
            for value in node.outputs[1:]:
                if value.uses() or value.is_graph_output():
                    said = f"'{node.name}' has its output '{value.name}' in use, expected only the first"
                    raise self.refusal(said, hint)
            if any(value is not None for value in node.inputs[4:6]):
                raise self.refusal(f"'{node.name}' takes past keys and values, expected none", hint)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """In place."""
        several = [node for node in _attentions(model) if len(node.outputs) > 1]
        for node in several:
            node.resize_outputs(1)
        return ir.passes.PassResult(model, modified=bool(several))


def _attentions(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "Attention"]
