"""Products with a bias as a product and a sum: for backends that read quantised weights in plain ones alone."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from hsexport.onnx.passes.graph_pass import ORT_DOMAIN, GraphPass
from hsexport.onnx.passes.name_by_module import UniqueNames, module_path, node_name
from hsexport.onnx.weights import turned


class PlainProducts(GraphPass):
    """Takes every Gemm with one of `weights` apart; the weight, read by nobody else, lies turned afterwards."""

    domains = ("", "ai.onnx", ORT_DOMAIN)

    def __init__(self, weights: Collection[str]) -> None:
        self._weights = weights

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """In place."""
        graph, names = model.graph, UniqueNames(node.name or "" for node in model.graph)
        found = [node for node in graph if node.op_type == "Gemm" and _weight(node).name in self._weights]
        for node in found:
            weight, path, out = _weight(node), module_path(node), node.outputs[0]
            assert weight.const_value is not None
            weight.const_value = turned(weight.const_value)
            weight.shape = weight.const_value.shape
            product = ir.node("MatMul", [node.inputs[0], weight], name=names.unique(node_name(path, "MatMul")))
            nodes = [product]
            if len(node.inputs) > 2 and node.inputs[2] is not None:
                summed = [product.outputs[0], node.inputs[2]]
                nodes.append(ir.node("Add", summed, name=names.unique(node_name(path, "Add"))))
                product.outputs[0].name = f"{out.name}.product"
                product.outputs[0].type, product.outputs[0].shape = out.type, out.shape
            ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [out], [nodes[-1].outputs[0]])
        return ir.passes.PassResult(model, modified=bool(found))


def _weight(node: ir.Node) -> ir.Value:
    weight = node.inputs[1]
    assert weight is not None
    return weight
