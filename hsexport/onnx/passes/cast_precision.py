"""Casts a whole fp32 graph to half precision, but for its fp32 blocks."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from hsexport.networks.network import Fp32Rule
from hsexport.onnx.passes.casting import (
    WIDE,
    Casts,
    convert_weights,
    float_edges,
    join_edges,
    retype,
    retype_nodes,
    retype_outputs,
)
from hsexport.onnx.passes.graph_pass import GraphPass
from hsexport.onnx.passes.half import half_type, takes
from hsexport.onnx.passes.names import module_path
from hsruntime.bundle.manifest import Fp32Block

NO_HALF = "no half precision"
"""What holds operators that ONNX defines for fp32 only (Range) or whose type is an attribute."""


class CastPrecision(GraphPass):
    """Casts a graph to "fp16" or "bf16"; nodes that one of `rules` holds stay fp32.

    Inputs and outputs whose names match a pattern in `narrow_tensors` become half as well, all others stay fp32.
    Weights keep their names and are converted one at a time while the model is saved (save_graph), which raises
    PassError if one of them leaves fp16's range.
    Requires that every float is fp32, and that no output is an input or a weight handed through.

    Afterwards `narrow` and `wide` count the float nodes that are half and fp32, `casts` the nodes added between them;
    `held` says how many each rule keeps, `narrow_names` which inputs and outputs are no longer fp32.
    """

    def __init__(self, precision: str, narrow_tensors: Sequence[str] = (), rules: Sequence[Fp32Rule] = ()) -> None:
        """Raises PassError for another precision."""
        self.dtype = half_type(precision)
        self._patterns, self._rules = narrow_tensors, rules
        self.narrow = self.wide = self.casts = 0
        self.held: list[Fp32Block] = []
        self.narrow_names: set[str] = set()

    def requires(self, model: ir.Model) -> None:
        """Raises PassError."""
        super().requires(model)
        graph = model.graph
        made = [value for node in graph for value in node.outputs if value.uses() or value.is_graph_output()]
        for value in (*graph.inputs, *graph.initializers.values(), *made):
            producer = value.producer()
            where = f"output of node '{producer.name}'" if producer else f"tensor '{value.name}'"
            if value.dtype is None:
                raise self.refusal(f"the {where} has no type", "infer shapes first")
            if value.dtype.is_floating_point() and value.dtype != WIDE:
                raise self.refusal(f"the {where} is {value.dtype.name.lower()}, expected float32")
        for value in graph.outputs:
            if value.producer() is None:
                raise self.refusal(f"output '{value.name}' is handed through, expected a node's output")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """In place."""
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        graph, casts = model.graph, Casts(model.graph)
        nodes = [node for node in graph if _deals_in_floats(node)]
        wide = self._stays_wide(nodes, model.opset_imports[""])
        edges = float_edges(nodes)
        self.narrow_names = {value.name or "" for value in (*graph.inputs, *graph.outputs) if self._is_narrow(value)}
        outputs = [self.dtype if value.name in self.narrow_names else value.dtype for value in graph.outputs]

        convert_weights(graph, edges, wide, self.dtype)
        for value in graph.inputs:
            if value.name in self.narrow_names:
                retype(value, self.dtype)
        retype_nodes([node for node in nodes if node not in wide], self.dtype)
        join_edges(casts, edges, wide, self.dtype)
        retype_outputs(graph, casts, outputs)
        self.narrow, self.wide, self.casts = len(nodes) - len(wide), len(wide), len(casts)
        return ir.passes.PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """Raises PassError for an input or output that is not of the type it was asked for in."""
        for value in (*model.graph.inputs, *model.graph.outputs):
            wanted = self.dtype if value.name in self.narrow_names else WIDE
            if value.dtype is not None and value.dtype.is_floating_point() and value.dtype != wanted:
                raise self.refusal(f"'{value.name}' is {value.dtype.name.lower()}, expected {wanted.name.lower()}")

    def _is_narrow(self, value: ir.Value) -> bool:
        return value.dtype == WIDE and any(fnmatchcase(value.name or "", pattern) for pattern in self._patterns)

    def _stays_wide(self, nodes: Sequence[ir.Node], opset: int) -> set[ir.Node]:
        """The nodes that stay fp32; `held` then says who asked for it."""
        wide = {node for node in nodes if not takes(node, opset, self.dtype)}
        if wide:
            self.held.append(Fp32Block(name=NO_HALF, nodes=len(wide), reason="ONNX has them in fp32 alone"))
        for rule in self._rules:
            held = [node for node in nodes if rule.holds(module_path(node), node.op_type)]
            wide.update(held)
            self.held.append(Fp32Block(name=rule.name, nodes=len(held), reason=rule.reason))
        return wide


def _deals_in_floats(node: ir.Node) -> bool:
    return bool(float_edges([node])) or any(value.dtype == WIDE for value in node.outputs)
