"""Stores what a graph multiplies with in 8 or 4 bits, and has it read activations in 8 where their range is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from hsengines.weights import CONVOLUTION, FORMATS, PRODUCT, TABLE, UNQUANTIZED, block_of, fitting
from hsexport.onnx.passes.graph_pass import ORT_DOMAIN, GraphPass, add_initializer
from hsexport.onnx.passes.name_by_module import UniqueNames, module_path, node_name
from hsexport.onnx.passes.ort_operators import turn_weights
from hsexport.onnx.passes.ort_quantised import PlainProducts
from hsexport.onnx.passes.readings import FLOAT, Reading, convolutions, products, tables
from hsexport.onnx.quantisation import LARGEST, TYPES, Form, Quantised, quantised, scale_of_scales
from hsexport.onnx.weights import HeldQuantised, held_quantised

HELD_BLOCK = 32
"""Weights to a scale where a checkpoint has 8-bit integers of its own (Q8_0)."""
ACTIVATIONS = {"fp8": ir.DataType.FLOAT8E4M3FN, "int8": ir.DataType.INT8}
"""Element types by the names that formats have for activations."""


@dataclass(frozen=True)
class Storage:
    """What decides how a network's weights are stored.

    `format_of(module)` names a format, and why where it is not the network's own. `largest` is the largest
    activation that a weight is multiplied with, `importance` (columns,) the mean square of each; both by the weight's
    name, from a calibration. `scale_type` is what the graph will compute in. `kinds` are what may read a quantised
    weight; `is_table(weight)`: whether its rows are looked up, and few enough at a time.
    """

    format_of: Callable[[str], tuple[str, str]]
    kinds: Collection[str] = (PRODUCT,)
    is_table: Callable[[str], bool] = lambda _: False
    largest: Mapping[str, float] = field(default_factory=dict)
    importance: Mapping[str, np.ndarray] = field(default_factory=dict)
    scale_type: np.dtype = field(default_factory=lambda: np.dtype(np.float32))
    int8_bits: int = 8
    products_with_bias: bool = True


class Quantise(GraphPass):
    """Puts DequantizeLinear in front of what reads weights, and the weights, quantised, in front of that.

    Where the format has a type for activations and their range is known, QuantizeLinear and DequantizeLinear come in
    front of the other side. Weights are quantised one at a time while the model is saved. Requires fp32: a cast to half
    comes after it, and makes the scales half that fit into it already.

    Afterwards `stored` counts readings by the format of their weights, `kept` those in another format than the
    network's by format and reason, `measured` products whose activations are quantised.
    """

    domains = ("", "ai.onnx", ORT_DOMAIN)
    takes_subgraphs = True  # and leaves them as they are

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.stored: Counter[str] = Counter()
        self.kept: Counter[tuple[str, str]] = Counter()
        self.measured = 0

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """In place."""
        turn_weights(model.graph)
        if not self._storage.products_with_bias:
            few = [r.name for r in self._readings(model.graph) if r.kind == PRODUCT and r.format != UNQUANTIZED]
            PlainProducts(few)(model)
        found = self._readings(model.graph)
        self.stored.update(r.format for r in found)
        self.kept.update((r.format, r.reason) for r in found if r.reason)
        added = Added(model.graph, self._storage)
        for reading in found:
            if reading.format != UNQUANTIZED:
                reading.node.replace_input_with(reading.place, added.weight(reading))
        for (value, kind), readers in self._measured(found).items():
            largest = max(self._storage.largest[reader.name] for reader in readers)
            wide = added.activation(value, kind, largest, readers[0].node)
            for reader in readers:
                reader.node.replace_input_with(0, wide)
            self.measured += len(readers)
        for reading in found:
            if not reading.weight.uses() and reading.name in model.graph.initializers:
                del model.graph.initializers[reading.name]
        return ir.passes.PassResult(model, modified=bool(found))

    def _readings(self, graph: ir.Graph) -> list[Reading]:
        all_kinds = {
            PRODUCT: products(graph),
            CONVOLUTION: convolutions(graph),
            TABLE: tables(graph, self._storage.is_table),
        }
        return [self._decided(r) for kind, found in all_kinds.items() if kind in self._storage.kinds for r in found]

    def _decided(self, reading: Reading) -> Reading:
        wanted, reason = self._storage.format_of(reading.name.removesuffix(".weight"))
        format, other = fitting(wanted, *reading.shape, reading.kind)
        return replace(reading, format=format, reason=other or reason)

    def _measured(self, found: list[Reading]) -> dict[tuple[ir.Value, str], list[Reading]]:
        """Products by what they read and the type it is to be quantised to."""
        readers: dict[tuple[ir.Value, str], list[Reading]] = {}
        for reading in found:
            kind = FORMATS[reading.format].activations if reading.format != UNQUANTIZED else ""
            value = reading.node.inputs[0]
            if kind and value is not None and reading.name in self._storage.largest:
                readers.setdefault((value, kind), []).append(reading)
        return readers


class Added:
    """Adds nodes and initialisers to a graph, each weight once."""

    def __init__(self, graph: ir.Graph, storage: Storage) -> None:
        self._graph, self._storage = graph, storage
        self._names = UniqueNames(node.name or "" for node in graph)
        self._weights: dict[str, ir.Value] = {}

    def weight(self, reading: Reading) -> ir.Value:
        """The quantised weight and what makes numbers of it, in front of what reads it."""
        if reading.name not in self._weights:
            self._weights[reading.name] = self._weight(reading)
        return self._weights[reading.name]

    def _weight(self, reading: Reading) -> ir.Value:
        format, name, (rows, columns), turned = reading.format, reading.name, reading.shape, reading.turned
        tensor = reading.weight.const_value
        assert tensor is not None
        held = held_quantised(tensor) if reading.kind == PRODUCT else None
        held = held if held and held.kind == format else None
        block = HELD_BLOCK if held and held.kind == "int8" else block_of(format, columns) or 0
        bits = self._storage.int8_bits if format == "int8-full" else 8
        form = Form(format, block, self._storage.scale_type, bits, self._storage.importance.get(name))
        made = Made(tensor, turned, form, held)
        values = self._lazy(f"{name}.{format}", made.values, TYPES[format], reading.lies)
        scale_shape = _turn((rows, columns // block), turned) if block else (rows,)
        scale_type = TYPES["fp8"] if format == "nvfp4" else np.dtype(np.float32)
        scale = self._lazy(f"{name}.scale", made.scales, scale_type, scale_shape)
        if format == "nvfp4":
            whole = self._lazy(f"{name}.scale.scale", made.scale_of_scales, np.dtype(np.float32), ())
            scale = self._node("DequantizeLinear", [scale, whole], reading.node, FLOAT, scale_shape)
        summed = 0 if turned else 1
        attributes = {"axis": summed, "block_size": block} if block else {"axis": 1 - summed}
        return self._node("DequantizeLinear", [values, scale], reading.node, FLOAT, reading.lies, attributes)

    def activation(self, value: ir.Value, kind: str, largest: float, before: ir.Node) -> ir.Value:
        """What a product reads, rounded to the type and back."""
        dtype, widest = ACTIVATIONS[kind], LARGEST[kind]
        number = np.float32(max(largest, 1e-6) / widest).astype(self._storage.scale_type).astype(np.float32)
        known = f"{value.name}.{kind}"
        scale = self._given(f"{known}.scale", np.asarray(number, np.float32), FLOAT)
        zero = self._given(f"{known}.zero", np.zeros((), dtype.numpy()), dtype)
        narrow = self._node("QuantizeLinear", [value, scale, zero], before, dtype, value.shape)
        return self._node("DequantizeLinear", [narrow, scale, zero], before, FLOAT, value.shape)

    def _lazy(self, name: str, read: Callable[[], np.ndarray], dtype: np.dtype, shape: tuple[int, ...]) -> ir.Value:
        kind = ir.DataType.from_numpy(dtype)
        tensor = ir.LazyTensor(lambda: ir.Tensor(read(), dtype=kind, name=name), kind, ir.Shape(shape), name=name)
        return add_initializer(self._graph, tensor)

    def _given(self, name: str, array: np.ndarray, dtype: ir.DataType) -> ir.Value:
        return add_initializer(self._graph, ir.Tensor(array, dtype=dtype, name=name))

    def _node(
        self,
        operator: str,
        inputs: list[ir.Value],
        before: ir.Node,
        dtype: ir.DataType,
        shape: ir.Shape | tuple[int, ...] | None,
        attributes: Mapping[str, int] | None = None,
    ) -> ir.Value:
        name = self._names.unique(node_name(module_path(before), operator))
        node = ir.node(operator, inputs, attributes, name=name)
        self._graph.insert_before(before, node)
        out = node.outputs[0]
        out.name, out.type = f"{name}.out", ir.TensorType(dtype)
        out.shape = ir.Shape(shape) if shape is not None else None
        return out


def _turn(shape: tuple[int, int], turned: bool) -> tuple[int, int]:
    return (shape[1], shape[0]) if turned else shape


class Made:
    """What comes of one weight, computed when one of its parts is looked at; the last such weight is kept for the next.

    Values and scales are written one after the other, so that each weight is quantised once.
    """

    _last: tuple[Made, Quantised] | None = None

    def __init__(self, tensor: ir.TensorProtocol, turned: bool, form: Form, held: HeldQuantised | None = None) -> None:
        self._tensor, self._turned, self._form, self._held = tensor, turned, form, held

    def values(self) -> np.ndarray:
        """As the weight lies."""
        return self._lying(self._found().values).reshape(self._tensor.shape.numpy())

    def scales(self) -> np.ndarray:
        """(rows,), or beside the blocks as the weight lies."""
        scales = self._found().scales
        return self._lying(scales) if self._form.block else scales[:, 0]

    def scale_of_scales(self) -> np.ndarray:
        """A number, which is written long after the others, with the graph itself."""
        return scale_of_scales(self._tensor.numpy().astype(np.float32, copy=False), self._form)

    def _lying(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array.T) if self._turned else array

    def _found(self) -> Quantised:
        if Made._last is None or Made._last[0] is not self:
            Made._last = self, self._made()
        return Made._last[1]

    def _made(self) -> Quantised:
        if self._held:  # as the checkpoint has them: rounding once more would only lose
            values, scales = self._held.read()
            one_each = np.broadcast_to(scales, (len(values), 1)) if scales.ndim == 0 else scales
            return Quantised(values, np.ascontiguousarray(one_each))
        numbers = self._tensor.numpy().astype(np.float32, copy=False)
        return quantised(numbers.T if self._turned else numbers.reshape(len(numbers), -1), self._form)
