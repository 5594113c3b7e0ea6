"""Quantised weights as the numbers they stand for: for what lacks their types, and to measure what they cost."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hsexport.onnx.passes.graph_pass import ORT_DOMAIN, GraphPass, add_initializer


class Dequantise(GraphPass):
    """Puts numbers in the scales' type in place of weights and their DequantizeLinear, computed when they are read.

    What quantises activations stays.
    """

    domains = ("", "ai.onnx", ORT_DOMAIN)
    takes_subgraphs = True  # and leaves them as they are

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """In place."""
        before = len(model.graph)
        for node in list(model.graph):  # in order: a scale may be made of another one
            if node.op_type != "DequantizeLinear" or not _all_known(node):
                continue
            out = node.outputs[0]
            out.replace_all_uses_with(add_initializer(model.graph, _numbers(node, f"{out.name}.numbers")))
            model.graph.remove(node, safe=True)
        for name in [name for name, value in model.graph.initializers.items() if not value.uses()]:
            del model.graph.initializers[name]
        return ir.passes.PassResult(model, modified=len(model.graph) < before)


def _all_known(node: ir.Node) -> bool:
    return all(value is None or value.const_value is not None for value in node.inputs)


def _numbers(node: ir.Node, name: str) -> ir.LazyTensor:
    values, scale = (value.const_value for value in node.inputs[:2] if value is not None)
    assert values is not None and scale is not None
    axis, block = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)

    def read() -> ir.TensorProtocol:
        factors = scale.numpy().astype(np.float32)
        if block:
            factors = np.repeat(factors, block, axis)
        elif factors.ndim == 1:
            factors = np.expand_dims(factors, tuple(d for d in range(len(values.shape)) if d != axis))
        numbers = values.numpy().astype(np.float32) * factors
        return ir.Tensor(numbers.astype(scale.dtype.numpy()), dtype=scale.dtype, name=name)

    return ir.LazyTensor(read, scale.dtype, ir.Shape(values.shape.numpy()), name=name)
