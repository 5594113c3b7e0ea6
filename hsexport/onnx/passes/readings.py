"""Where a graph reads weights that can be stored in few bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from hsengines.weights import CONVOLUTION, PRODUCT, TABLE, UNQUANTIZED

FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class Reading:
    """A node and the weight that it reads, which lies (columns, rows) if it is turned; the format, and why it is so."""

    kind: str
    node: ir.Node
    weight: ir.Value
    turned: bool = False
    format: str = UNQUANTIZED
    reason: str = ""

    @property
    def name(self) -> str:
        """The weight's."""
        return self.weight.name or ""

    @property
    def place(self) -> int:
        """Of the weight among what the node reads."""
        return 0 if self.kind == TABLE else 1

    @property
    def lies(self) -> tuple[int, ...]:
        """The weight's shape."""
        assert self.weight.const_value is not None
        shape: tuple[int, ...] = tuple(self.weight.const_value.shape.numpy())
        return shape

    @property
    def shape(self) -> tuple[int, int]:
        """Rows (output channels, or what is looked up), and all the numbers of one."""
        first, *others = self.lies
        return (others[0], first) if self.turned else (first, math.prod(others))


def products(graph: ir.Graph) -> Iterator[Reading]:
    """Matrices that are multiplied with, and read by nobody else."""
    for node in graph:
        turned = node.op_type == "MatMul"
        if turned or _is_plain(node):
            yield from _alone(Reading(PRODUCT, node, node.inputs[1], turned), 2)  # type: ignore[arg-type]


def convolutions(graph: ir.Graph) -> Iterator[Reading]:
    """Kernels (out, in / groups, height, width)."""
    for node in graph:
        if node.op_type == "Conv":
            yield from _alone(Reading(CONVOLUTION, node, node.inputs[1]), 4)  # type: ignore[arg-type]


def tables(graph: ir.Graph, is_table: Callable[[str], bool]) -> Iterator[Reading]:
    """Matrices of which rows are looked up, by name."""
    for node in graph:
        if node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 0:
            reading = Reading(TABLE, node, node.inputs[0])  # type: ignore[arg-type]
            if is_table(reading.name):
                yield from _alone(reading, 2)


def _alone(reading: Reading, rank: int) -> Iterator[Reading]:
    """The reading, if it is of a weight that its like alone reads."""
    weight = reading.weight
    if weight is None or weight.const_value is None or not weight.is_initializer() or weight.dtype != FLOAT:
        return
    alike = all(node.op_type == reading.node.op_type and place == reading.place for node, place in weight.uses())
    if alike and len(reading.lies) == rank:
        yield reading


def _is_plain(node: ir.Node) -> bool:
    """Whether a node is x times a weight (rows, columns), plus a bias."""
    return (
        node.op_type == "Gemm"
        and node.attributes.get_int("transB", 0) == 1
        and node.attributes.get_int("transA", 0) == 0
    )
