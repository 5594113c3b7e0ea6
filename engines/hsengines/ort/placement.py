"""Which provider ONNX Runtime gave each node: what one does not take goes to the CPU without a word."""

from __future__ import annotations

from dataclasses import dataclass

import onnxruntime as ort

from hsengines.errors import EngineLoadError

RECORD = "session.record_ep_graph_assignment_info"
"""The session's entry that makes it keep the assignment."""
_SHAPE_OPS = """
    Shape Size Gather Concat Slice Split Unsqueeze Squeeze Reshape Expand Tile Cast Identity Constant Range
    ConstantOfShape Add Sub Mul Div Mod Neg Min Max Floor Ceil ReduceProd ReduceSum Equal Less Greater Not And Or Where
"""
SHAPE_OPS = frozenset(_SHAPE_OPS.split())
"""ONNX Runtime itself puts nodes that compute shapes on the CPU, because what reads a shape is the host."""
SHOWN = 5


@dataclass(frozen=True)
class Placed:
    """A node and where it runs."""

    name: str
    op: str
    provider: str


def placement(session: ort.InferenceSession) -> list[Placed]:
    """Every node of a session that was opened with `RECORD`."""
    return [
        Placed(node.name, node.op_type, part.ep_name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]


def elsewhere(nodes: list[Placed], provider: str) -> list[Placed]:
    """The nodes that do not run on `provider`."""
    return [node for node in nodes if node.provider != provider]


def refuse_strays(engine: str, nodes: list[Placed], provider: str) -> None:
    """Raises EngineLoadError, naming them, for nodes that compute more than shapes and do not run on `provider`."""
    strays = [node for node in elsewhere(nodes, provider) if node.op not in SHAPE_OPS]
    if strays:
        raise EngineLoadError(f"{engine} would not run on {provider} whole: {named(strays)}", REMEDY)


REMEDY = "build in another precision, with a newer onnxruntime-gpu, or for another backend"


def named(nodes: list[Placed]) -> str:
    """The first few nodes, each with its operator and its place."""
    shown = ", ".join(f"{node.op} '{node.name}' on {node.provider}" for node in nodes[:SHOWN])
    return shown + (f" and {len(nodes) - SHOWN} more" if len(nodes) > SHOWN else "")
