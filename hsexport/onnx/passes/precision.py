"""Casts a whole fp32 graph to half precision, but for its islands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from hsexport.onnx.passes.casting import (
    Casts,
    convert_weights,
    float_edges,
    join_edges,
    retype,
    retype_nodes,
    retype_outputs,
)
from hsexport.onnx.passes.errors import PassError
from hsexport.onnx.passes.flat import check_flat
from hsexport.onnx.passes.half import half_type
from hsexport.onnx.passes.islands import Island
from hsexport.onnx.passes.kinds import takes

NO_HALF = "no half precision"
"""The island of operators that ONNX defines for fp32 only (Range) or whose type is an attribute."""


@dataclass(frozen=True)
class IslandUse:
    """How many nodes of a graph an island kept in fp32; 0 if it matched none."""

    name: str
    nodes: int
    reason: str = ""


@dataclass(frozen=True)
class CastReport:
    """What a cast made of a graph: how many of its float nodes are half and how many fp32, and by which islands.

    `narrow_tensors` are the inputs and outputs that are no longer fp32. A node may lie in several islands.
    """

    precision: str
    narrow: int
    wide: int
    casts: int
    islands: tuple[IslandUse, ...] = ()
    narrow_tensors: tuple[str, ...] = ()


def cast_precision(
    model: ir.Model, precision: str, narrow_tensors: Sequence[str] = (), islands: Sequence[Island] = ()
) -> CastReport:
    """Casts a graph to "fp16" or "bf16" in place; nodes that an island holds stay fp32.

    Inputs and outputs whose names match a pattern in `narrow_tensors` become half as well, all others stay fp32.
    Weights keep their names and are converted one at a time while the model is saved (save_graph), which raises
    PassError if one of them leaves fp16's range.
    Preconditions: no subgraphs, functions or foreign operators; every float is fp32; no output is an input or a
    weight handed through. Raises PassError.
    """
    narrow = half_type(precision, "cast_precision")
    check_flat(model, "cast_precision")
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _check_floats(model)
    graph, casts = model.graph, Casts(model.graph)
    nodes, wide, uses = _sort_nodes(model, narrow, islands)
    edges = float_edges(nodes)
    names = {value.name or "" for value in (*graph.inputs, *graph.outputs) if _matches(value, narrow_tensors)}
    outputs = [narrow if value.name in names else value.dtype for value in graph.outputs]

    convert_weights(graph, edges, wide, narrow)
    for value in graph.inputs:
        if value.name in names:
            retype(value, narrow)
    retype_nodes([node for node in nodes if node not in wide], narrow)
    join_edges(casts, edges, wide, narrow)
    retype_outputs(graph, casts, outputs)
    return CastReport(precision, len(nodes) - len(wide), len(wide), len(casts), uses, tuple(sorted(names)))


def _matches(value: ir.Value, patterns: Sequence[str]) -> bool:
    name = value.name or ""
    return value.dtype == ir.DataType.FLOAT and any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_floats(model: ir.Model) -> None:
    graph = model.graph
    made = [value for node in graph for value in node.outputs if value.uses() or value.is_graph_output()]
    for value in (*graph.inputs, *graph.initializers.values(), *made):
        producer = value.producer()
        where = f"output of node '{producer.name}'" if producer else f"tensor '{value.name}'"
        if value.dtype is None:
            raise PassError(f"cast_precision: the {where} has no type", "infer shapes first")
        if value.dtype.is_floating_point() and value.dtype != ir.DataType.FLOAT:
            raise PassError(f"cast_precision: the {where} is {value.dtype.name.lower()}, expected float32")
    for value in graph.outputs:
        if value.producer() is None:
            raise PassError(f"cast_precision: output '{value.name}' is handed through, expected a node's output")


def _sort_nodes(
    model: ir.Model, narrow: ir.DataType, islands: Sequence[Island]
) -> tuple[list[ir.Node], set[ir.Node], tuple[IslandUse, ...]]:
    """The nodes that deal in floats, those of them that stay fp32, and who asked for it."""
    opset = model.opset_imports[""]
    nodes = [node for node in model.graph if _deals_in_floats(node)]
    wide = {node for node in nodes if not takes(node, opset, narrow)}
    uses = [IslandUse(NO_HALF, len(wide), "ONNX has them in fp32 alone")] if wide else []
    for island in islands:
        held = [node for node in nodes if island.holds(node)]
        wide.update(held)
        uses.append(IslandUse(island.name, len(held), island.reason))
    return nodes, wide, tuple(uses)


def _deals_in_floats(node: ir.Node) -> bool:
    return bool(float_edges([node])) or any(value.dtype == ir.DataType.FLOAT for value in node.outputs)
