"""An fp32 graph that rounds like a half-precision one: how accuracy is measured where no half kernels are."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from hsexport.onnx.passes.cast_precision import WIDE, Casts, retype
from hsexport.onnx.passes.graph_pass import GraphPass
from hsexport.onnx.passes.half import half_type, widened

_MOVES = frozenset(
    (
        *("Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Slice"),
        *("Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    )
)
"""Operators that hand numbers on: rounded ones are still rounded behind them."""


class CastBack(GraphPass):
    """Turns a graph cast to `precision` ("fp16" or "bf16") into fp32, keeping what halves do to numbers.

    Every half value becomes an fp32 one that passed through Cast(half) and Cast(fp32): an operator computes in fp32
    from rounded inputs and its answer is rounded once, overflow to infinity included, as on a GPU that sums in fp32.
    A builder that fuses operators rounds less often, so what is measured here errs on the safe side. Inputs and
    outputs become fp32; weights hold their rounded values, read one at a time while the model is saved.
    """

    def __init__(self, precision: str) -> None:
        """Raises PassError for another precision."""
        self.half = half_type(precision)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """In place."""
        half, graph, casts = self.half, model.graph, Casts(model.graph)
        for weight in graph.initializers.values():
            if weight.dtype == half and weight.const_value is not None:
                weight.const_value = widened(weight.const_value, weight.name or "")
                retype(weight, WIDE)
        for value in graph.inputs:
            if value.dtype == half:
                retype(value, WIDE)
                _round(graph, casts, value, half)
        for node in list(graph):
            halves = [value for value in node.outputs if value.dtype == half]
            if halves or _is_cast_to(node, WIDE):
                _turn(graph, casts, node, halves, half)
        return ir.passes.PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """Raises PassError for a half that is anything but the middle of a rounding."""
        values = [value for node in model.graph if node.op_type != "Cast" for value in node.outputs]
        for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values(), *values):
            if value.dtype == self.half:
                raise self.refusal(f"'{value.name}' is still {value.dtype.name.lower()}")


def _turn(graph: ir.Graph, casts: Casts, node: ir.Node, halves: Iterable[ir.Value], half: ir.DataType) -> None:
    """One node of a half graph; what it reads has become fp32 already."""
    if _is_cast_to(node, WIDE):
        source = node.inputs[0]
        # The rounding is behind us; a Cast from fp32 to fp32 is left only where an output hangs on it.
        if source is not None and source.dtype == WIDE and not node.outputs[0].is_graph_output():
            ir.convenience.replace_all_uses_with(node.outputs[0], source)
            graph.remove(node, safe=True)
        return
    for value in halves:
        if node.op_type == "Cast":
            wide = casts.add(value, WIDE)
            _replace(graph, value, wide, wide.producer())
            continue
        retype(value, WIDE)
        if node.op_type not in _MOVES:
            _round(graph, casts, value, half)


def _round(graph: ir.Graph, casts: Casts, value: ir.Value, half: ir.DataType) -> None:
    """Puts Cast(half) and Cast(fp32) behind an fp32 value, for all its readers."""
    narrow = casts.add(value, half)
    _replace(graph, value, casts.add(narrow, WIDE), narrow.producer())


def _replace(graph: ir.Graph, value: ir.Value, wide: ir.Value, cast: ir.Node | None) -> None:
    """Lets everyone but the `cast` behind `value` read `wide` in its place; as a graph output it keeps the name."""
    for reader, place in list(value.uses()):
        if reader is not cast:
            reader.replace_input_with(place, wide)
    if not value.is_graph_output():
        return
    name = value.name
    value.name, wide.name = f"{name}.rounded", name
    for place, output in enumerate(list(graph.outputs)):
        if output is value:
            graph.outputs[place] = wide


def _is_cast_to(node: ir.Node, dtype: ir.DataType) -> bool:
    return node.op_type == "Cast" and node.attributes["to"].as_int() == dtype.value
