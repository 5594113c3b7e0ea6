"""A count of floating-point operations over an exported graph, at any extents of its symbolic dimensions."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping

import onnx_ir as ir

from hsengines.errors import HSError
from hsengines.spec import EngineSpec

OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


class GraphFlopsError(HSError):
    """A product in a graph whose extents are not known."""


def flops_of_graph(model: ir.Model, spec: EngineSpec, dims: Mapping[str, int]) -> int:
    """Operations of all matrix products, convolutions and attentions, a multiplication and an addition being two.

    `dims` are extents of the spec's own dimensions; the graph's symbols are found by its inputs. Preconditions: shapes
    are inferred. Raises GraphFlopsError.
    """
    symbols = _symbols(model.graph, spec, dims)
    return sum(
        COUNTED[node.op_type](node, lambda value, node=node: _extents(node, value, symbols))  # type: ignore[misc]
        for node in model.graph
        if node.op_type in COUNTED
    )


Extents = Callable[[ir.Value | None], tuple[int, ...]]


def _matmul(node: ir.Node, extents: Extents) -> int:
    return 2 * math.prod(extents(node.outputs[0])) * extents(node.inputs[0])[-1]


def _gemm(node: ir.Node, extents: Extents) -> int:
    transposed = node.attributes.get_int("transA", 0)
    return 2 * math.prod(extents(node.outputs[0])) * extents(node.inputs[0])[0 if transposed else 1]


def _conv(node: ir.Node, extents: Extents) -> int:
    """Weights (out, in / groups, *kernel): each output pixel is a sum over all but the first."""
    return 2 * math.prod(extents(node.outputs[0])) * math.prod(extents(node.inputs[1])[1:])


def _attention(node: ir.Node, extents: Extents) -> int:
    """Query, key, value (B, H, tokens, D): scores, and the values they weigh. Masks are not taken for savings."""
    (rows, heads, queries, size), (*_, keys, _), (*_, value_size) = (extents(value) for value in node.inputs[:3])
    return 2 * rows * heads * queries * keys * (size + value_size)


COUNTED: dict[str, Callable[[ir.Node, Extents], int]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "Attention": _attention,
}


def _symbols(graph: ir.Graph, spec: EngineSpec, dims: Mapping[str, int]) -> dict[str, int]:
    """The graph's symbols by the extents that the spec's inputs have in their place."""
    found: dict[str, int] = {}
    inputs = {tensor.name: tensor.resolve(dims) for tensor in spec.inputs}
    for value in graph.inputs:
        for dim, extent in zip(value.shape or (), inputs[value.name or ""], strict=True):
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                found[dim.value] = extent
    return found


def _extents(node: ir.Node, value: ir.Value | None, symbols: Mapping[str, int]) -> tuple[int, ...]:
    if value is None or value.shape is None:
        raise GraphFlopsError(f"node '{node.name}': a shape is not known", "infer shapes first")
    return tuple(dim if isinstance(dim, int) else _evaluated(node, str(dim.value), symbols) for dim in value.shape)


def _evaluated(node: ir.Node, text: str, symbols: Mapping[str, int]) -> int:
    """An expression as the exporter writes them: `s12 + s18`, `s12*s13`, `8*s3`."""

    def number(part: ast.expr) -> int:
        if isinstance(part, ast.Constant) and isinstance(part.value, int):
            return part.value
        if isinstance(part, ast.Name) and part.id in symbols:
            return symbols[part.id]
        if isinstance(part, ast.BinOp) and type(part.op) in OPERATORS:
            return OPERATORS[type(part.op)](number(part.left), number(part.right))
        raise GraphFlopsError(f"node '{node.name}': the extent '{text}' cannot be told from the inputs' shapes")

    return number(ast.parse(text, mode="eval").body)
