"""Has a graph tell how large the numbers are that its products read."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hsexport.onnx.passes.graph_pass import ORT_DOMAIN, GraphPass, add_initializer
from hsexport.onnx.passes.readings import products

LARGEST, SQUARES = "largest", "squares"


class ExposeRanges(GraphPass):
    """Adds two outputs (columns,) for each value that products with weights read: largest magnitudes, sums of squares.

    `weights` has the products' weights by those outputs' number: "largest 3" and "squares 3" are of value 3.
    """

    domains = ("", "ai.onnx", ORT_DOMAIN)
    takes_subgraphs = True  # and leaves them as they are

    def __init__(self) -> None:
        self.weights: dict[int, list[str]] = {}

    @property
    def outputs(self) -> list[str]:
        """All that were added, by name."""
        return [f"{what} {number}" for number in self.weights for what in (LARGEST, SQUARES)]

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """In place."""
        read: dict[ir.Value, list[str]] = {}
        columns: dict[ir.Value, int] = {}
        for reading in products(model.graph):
            if (value := reading.node.inputs[0]) is not None:
                read.setdefault(value, []).append(reading.name)
                _, columns[value] = reading.shape
        for number, (value, weights) in enumerate(read.items()):
            self.weights[number] = weights
            _expose(model.graph, value, columns[value], number)
        return ir.passes.PassResult(model, modified=bool(read))


def _expose(graph: ir.Graph, value: ir.Value, columns: int, number: int) -> None:
    """A row of zeros beside the value's own: a text stream that comes from the cache has none."""
    shape = add_initializer(graph, ir.Tensor(np.asarray([-1, columns], np.int64), name=f"shape {number}"))
    zeros = add_initializer(graph, ir.Tensor(np.zeros((1, columns), np.float32), name=f"zeros {number}"))
    first = add_initializer(graph, ir.Tensor(np.asarray([0], np.int64), name=f"first {number}"))
    rows = ir.node("Reshape", [value, shape], name=f"rows {number}")
    more = ir.node("Concat", [zeros, rows.outputs[0]], {"axis": 0}, name=f"more {number}")
    size = ir.node("Abs", more.outputs, name=f"size {number}")
    largest = ir.node("ReduceMax", [size.outputs[0], first], {"keepdims": 0}, name=f"{LARGEST} {number}")
    squares = ir.node("ReduceSumSquare", [more.outputs[0], first], {"keepdims": 0}, name=f"{SQUARES} {number}")
    for node in (rows, more, size, largest, squares):
        graph.append(node)
        node.outputs[0].name = node.name
    for node in (largest, squares):
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([columns])
        graph.outputs.append(node.outputs[0])
