"""Casts a whole fp32 graph to half precision, but for its fp32 blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from hsexport.networks.network import Fp32Rule
from hsexport.onnx.passes.graph_pass import GraphPass
from hsexport.onnx.passes.half import KEPT_INPUTS, TYPE_BLIND, half_type, narrowed, takes
from hsexport.onnx.passes.name_by_module import UniqueNames, module_path, node_name
from hsruntime.bundle.manifest import Fp32Block

WIDE = ir.DataType.FLOAT
SHORT = {WIDE: "fp32", ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16"}
"""Element types as they appear behind a value's name."""

Edge = tuple[ir.Node, int]
"""A node and the place of one of its inputs."""
QUANTISED_BITS = 8
"""Floats of so many bits or fewer are stored, and not computed with."""
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
            if value.dtype.is_floating_point() and value.dtype != WIDE and value.dtype.bitwidth > QUANTISED_BITS:
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

        convert_weights(graph, wide, self.dtype)
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


def convert_weights(graph: ir.Graph, wide: set[ir.Node], narrow: ir.DataType) -> None:
    """Turns weights that narrow nodes read to `narrow`; what wide nodes read of them stays as "<name>.fp32"."""
    for value in [weight for weight in graph.initializers.values() if weight.dtype == WIDE]:
        edges = [(node, place) for node, place in value.uses() if node.op_type not in TYPE_BLIND]
        read_wide = [edge for edge in edges if type_read(edge, wide, narrow) == WIDE]
        if len(read_wide) == len(edges):
            continue
        tensor, name = value.const_value, value.name
        assert tensor is not None and name is not None
        if read_wide:
            own = ir.Value(name=f"{name}.{SHORT[WIDE]}", shape=value.shape, type=value.type, const_value=tensor)
            graph.register_initializer(own)
            for node, place in read_wide:
                node.replace_input_with(place, own)
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
