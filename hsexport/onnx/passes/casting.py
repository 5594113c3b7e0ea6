"""The mechanics of a cast: new types for nodes and weights, Cast nodes on the edges between them."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from hsexport.onnx.passes.half import KEPT_INPUTS, TYPE_BLIND, narrowed
from hsexport.onnx.passes.names import UniqueNames, module_path, node_name

WIDE = ir.DataType.FLOAT
SHORT = {WIDE: "fp32", ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16"}
"""Element types as they appear behind a value's name."""

Edge = tuple[ir.Node, int]
"""A node and the place of one of its inputs."""


def retype(value: ir.Value, dtype: ir.DataType) -> None:
    """Gives a value a type of its own: assigning to `dtype` would change every value that shares the old one."""
    value.type = ir.TensorType(dtype)


class Casts:
    """Adds Cast nodes to a graph, at most one per value and type, each named after its value's module."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._names = UniqueNames(node.name or "" for node in graph)
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def __len__(self) -> int:
        return len(self._made)

    def of(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """`value` in `dtype`."""
        if (value, dtype) not in self._made:
            self._made[value, dtype] = self.add(value, dtype)
        return self._made[value, dtype]

    def add(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """A new Cast of `value` right behind its producer, or first of all if it is an input."""
        producer = value.producer()
        path = module_path(producer) if producer else ""
        node = ir.node("Cast", [value], {"to": dtype.value}, name=self._names.unique(node_name(path, "Cast")))
        cast = node.outputs[0]
        cast.name, cast.shape = f"{value.name}.{SHORT[dtype]}", value.shape
        retype(cast, dtype)
        if producer is not None:
            self._graph.insert_after(producer, node)
        else:
            self._graph.insert_before(self._graph[0], node)
        return cast


def float_edges(nodes: Iterable[ir.Node]) -> list[Edge]:
    """Where `nodes` read fp32 values and care about the type."""
    return [
        (node, place)
        for node in nodes
        if node.op_type not in TYPE_BLIND
        for place, value in enumerate(node.inputs)
        if value is not None and value.dtype == WIDE
    ]


def type_read(edge: Edge, wide: set[ir.Node], narrow: ir.DataType) -> ir.DataType:
    """The type in which a node wants one of its float inputs."""
    node, place = edge
    return WIDE if node in wide or place in KEPT_INPUTS.get(node.op_type, ()) else narrow


def convert_weights(graph: ir.Graph, edges: Iterable[Edge], wide: set[ir.Node], narrow: ir.DataType) -> None:
    """Turns weights that narrow nodes read to `narrow`; what wide nodes read of them stays as "<name>.fp32"."""
    readers: dict[ir.Value, dict[ir.DataType, list[Edge]]] = {}
    for node, place in edges:
        value = node.inputs[place]
        if value is not None and value.is_initializer():
            by_type = readers.setdefault(value, {})
            by_type.setdefault(type_read((node, place), wide, narrow), []).append((node, place))
    for value, by_type in readers.items():
        if narrow in by_type:
            _convert_weight(graph, value, by_type.get(WIDE, []), narrow)


def _convert_weight(graph: ir.Graph, value: ir.Value, read_wide: list[Edge], narrow: ir.DataType) -> None:
    tensor, name = value.const_value, value.name
    assert tensor is not None and name is not None
    if read_wide:
        copy = ir.Value(name=f"{name}.{SHORT[WIDE]}", shape=value.shape, type=ir.TensorType(WIDE), const_value=tensor)
        graph.register_initializer(copy)
        for node, place in read_wide:
            node.replace_input_with(place, copy)
    value.const_value = narrowed(tensor, name, narrow)
    retype(value, narrow)


def retype_nodes(nodes: Iterable[ir.Node], narrow: ir.DataType) -> None:
    """Makes the float outputs of `nodes` half, a Cast's by its attribute."""
    for node in nodes:
        for value in node.outputs:
            if value.dtype == WIDE:
                retype(value, narrow)
                if node.op_type == "Cast":
                    node.attributes["to"] = ir.AttrInt64("to", narrow.value)


def join_edges(casts: Casts, edges: Iterable[Edge], wide: set[ir.Node], narrow: ir.DataType) -> None:
    """Gives every node its float inputs in the type it wants; a Cast takes any."""
    for node, place in edges:
        value, dtype = node.inputs[place], type_read((node, place), wide, narrow)
        if value is not None and value.dtype != dtype and node.op_type != "Cast":
            node.replace_input_with(place, casts.of(value, dtype))


def retype_outputs(graph: ir.Graph, casts: Casts, dtypes: Iterable[ir.DataType | None]) -> None:
    """Casts graph outputs to their wanted types; the outputs keep their names."""
    for place, (value, dtype) in enumerate(zip(list(graph.outputs), dtypes, strict=True)):
        if dtype is None or value.dtype is None or value.dtype == dtype:
            continue
        cast, name = casts.of(value, dtype), value.name
        value.name, cast.name = f"{name}.{SHORT[value.dtype]}", name
        graph.outputs[place] = cast
