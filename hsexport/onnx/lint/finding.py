"""What the lint has to say about one node or tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from hsengines.traits import traits_of


@dataclass(frozen=True)
class Finding:
    """One remark: `refused` if the backend would not take the graph, otherwise advice.

    `node` names the node or tensor; `said` is what is wrong with it, `hint` what to do.
    """

    rule: str
    node: str
    said: str
    hint: str
    refused: bool

    def __str__(self) -> str:
        return f"node '{self.node}': {self.said}; {self.hint}"


@dataclass(frozen=True)
class Subject:
    """A graph, and what it is meant for: `precision` is what it will be cast to, or has been."""

    model: ir.Model
    backend: str
    precision: str

    @property
    def for_gpu(self) -> bool:
        """Whether it is to be captured in a CUDA graph."""
        return not traits_of(self.backend).on_cpu

    def nodes(self, *operators: str) -> Iterator[ir.Node]:
        """All nodes, those in subgraphs and functions included; of these operators alone, if any are named."""
        graphs: list[ir.Graph | ir.Function] = [self.model.graph, *self.model.functions.values()]
        for graph in graphs:
            for node in ir.traversal.RecursiveGraphIterator(graph):
                if not operators or node.op_type in operators:
                    yield node


Rule = Callable[[Subject], Iterator[Finding]]
"""One rule: every finding it has about a subject."""


def name_of(node: ir.Node) -> str:
    """A node's name, or its operator's and output's if it has none."""
    return node.name or f"{node.op_type} of '{node.outputs[0].name if node.outputs else ''}'"
