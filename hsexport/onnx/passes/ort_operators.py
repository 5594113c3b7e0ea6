"""Graphs as ONNX Runtime's CPU runs them fastest: operators of its own, and attention over tokens as they lie."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.rewriter import pattern, rewrite

from hsexport.onnx.passes.graph_pass import ORT_DOMAIN, GraphPass
from hsexport.onnx.passes.name_by_module import UniqueNames, module_path, node_name
from hsexport.onnx.weights import turned

HEADS_FIRST = [0, 2, 1, 3]
SMALL = 16
"""Numbers in what may be looked at for being there twice: shapes, and no weights."""


class OrtOperators(GraphPass):
    """Rewrites what measures on ONNX Runtime's CPU; weights keep their names, some lie transposed.

    In a Gemm, it writes the bias out over the whole result and then adds to it: a fifth of a narrow product's time.
    What reads the product next adds it on the way, if that is a tanh gelu (FastGelu) or a root mean square norm of
    heads (SkipSimplifiedLayerNormalization). Attention turns heads to the front by itself.
    """

    takes_subgraphs = True  # and leaves them as they are

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """In place."""
        known = {node.name for node in model.graph}
        for rule in (PackedAttention, BiasInNorm, BiasInGelu):  # the first asks for shapes that later ones forget
            rewrite(model, pattern.RewriteRuleSet([rule.rule()]))
        turn_weights(model.graph)
        tidy = (common.LiftConstantsToInitializersPass(True, 0), common.DeduplicateInitializersPass(SMALL))
        ir.passes.Sequential(*tidy)(model)
        _name_nodes(model.graph, known)
        return ir.passes.PassResult(model, modified=True)


class BiasInNorm(pattern.RewriteRuleClassBase):
    """Of a product that is split into heads (rows, tokens, heads, size), each normed by itself."""

    def pattern(self, op: Any, x: Any, weight: Any, bias: Any, shape: Any, scale: Any) -> Any:
        """A product, split, normed."""
        split = op.Reshape(op.Gemm(x, weight, bias, transB=1), shape, allowzero=1)
        return op.RMSNormalization(split, scale, axis=-1, _outputs=["normed"])

    def check(self, _: Any, bias: ir.Value, scale: ir.Value, **others: Any) -> bool:
        """Whether bias and scale are of known size."""
        del others
        return _is_vector(bias) and _is_vector(scale)

    def rewrite(self, op: Any, x: Any, weight: Any, bias: Any, shape: Any, scale: Any, normed: ir.Value) -> Any:
        """The bias lies (heads, size), which broadcasts over all tokens."""
        size = scale.shape[0]
        heads = [bias.shape[0] // size, size]
        product = op.MatMul(x, op.Transpose(weight, perm=[1, 0]))
        by_head = op.Reshape(product, op.Constant(value_ints=[-1, *heads]))
        node = normed.producer()
        assert node is not None
        answer = op.SkipSimplifiedLayerNormalization(
            by_head,
            op.Reshape(bias, op.Constant(value_ints=heads)),
            scale,
            epsilon=node.attributes["epsilon"].as_float(),
            _domain=ORT_DOMAIN,
        )
        return op.Reshape(answer, shape, allowzero=1)


class BiasInGelu(pattern.RewriteRuleClassBase):
    """Of a product that a tanh gelu reads."""

    def pattern(self, op: Any, x: Any, weight: Any, bias: Any) -> Any:
        """A product and a gelu."""
        return op.Gelu(op.Gemm(x, weight, bias, transB=1), approximate="tanh")

    def rewrite(self, op: Any, x: Any, weight: Any, bias: Any) -> Any:
        """One pass over the product."""
        return op.FastGelu(op.MatMul(x, op.Transpose(weight, perm=[1, 0])), bias, _domain=ORT_DOMAIN)


class PackedAttention(pattern.RewriteRuleClassBase):
    """Of tokens (rows, tokens, heads, size), turned to heads first and back."""

    def pattern(self, op: Any, query: Any, key: Any, value: Any) -> Any:
        """Attention between transpositions."""
        turned = [op.Transpose(each, perm=HEADS_FIRST) for each in (query, key, value)]
        return op.Transpose(op.Attention(*turned, _outputs=["answer"]), perm=HEADS_FIRST)

    def check(self, _: Any, answer: ir.Value, **others: Any) -> bool:
        """Whether heads and their size are known, and attention no other than plain."""
        del others
        node, shape = answer.producer(), answer.shape
        assert node is not None
        plain = all(attribute.value in (0, None) for attribute in node.attributes.values())
        return plain and shape is not None and isinstance(shape[1], int) and isinstance(shape[3], int)

    def rewrite(self, op: Any, query: Any, key: Any, value: Any, answer: Any) -> Any:
        """(rows, tokens, width) in and out."""
        heads, size = answer.shape[1], answer.shape[3]
        flat = op.Constant(value_ints=[0, 0, heads * size])
        wide = [op.Reshape(each, flat) for each in (query, key, value)]
        packed = op.Attention(*wide, q_num_heads=heads, kv_num_heads=heads)
        return op.Reshape(packed, op.Constant(value_ints=[0, 0, heads, size]))


def _is_vector(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == 1 and isinstance(value.shape[0], int)


def turn_weights(graph: ir.Graph) -> None:
    """Transposes weights where the graph would, and drops the nodes that would."""
    for node in list(graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or not weight.is_initializer() or len(weight.uses()) > 1:
            continue
        assert weight.const_value is not None
        weight.const_value = turned(weight.const_value)
        weight.shape = weight.const_value.shape
        node.outputs[0].replace_all_uses_with(weight)
        graph.remove(node, safe=True)


def _name_nodes(graph: ir.Graph, known: Collection[str | None]) -> None:
    """Names nodes that are not `known` after the module of the one before them."""
    names, path = UniqueNames(name for name in known if name), ""
    for node in graph:
        if node.name in known:
            path = module_path(node) or path
        else:
            node.name = names.unique(node_name(path, node.op_type))
