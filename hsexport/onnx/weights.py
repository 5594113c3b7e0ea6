"""A graph's weights taken out of it, and put in from a checkpoint: each read when it is looked at, and not kept."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hsexport.checkpoints.weights import Origin, Weight, Weights
from hsexport.checkpoints.weights import Quantised as HeldQuantised

CHECKPOINT = "checkpoint"
"""What a placeholder gives as its file: an exported graph is not whole without the network's Weights."""


class CheckpointTensor(ir.LazyTensor):
    """A weight of a checkpoint in an element type of choice, read anew whenever it is looked at."""

    def __init__(self, weight: Weight, name: str, dtype: ir.DataType = ir.DataType.FLOAT) -> None:
        super().__init__(self._read, dtype, ir.Shape(weight.shape), name=name)
        self.weight = weight

    @property
    def is_as_stored(self) -> bool:
        """Whether the checkpoint's own bytes are this tensor's, type included."""
        stored = self.weight.stored
        return stored is not None and STORED.get(stored.dtype) == self.dtype

    def in_type(self, dtype: ir.DataType) -> CheckpointTensor:
        """The same weight in another element type."""
        return CheckpointTensor(self.weight, self.name or "", dtype)

    def _read(self) -> ir.TensorProtocol:
        array: np.ndarray = self.weight.read().astype(self.dtype.numpy(), copy=False)
        return ir.Tensor(np.ascontiguousarray(array), dtype=self.dtype, name=self.name)


class DerivedTensor(ir.LazyTensor):
    """What `read` makes of another tensor whenever it is looked at: its numbers in another type, or a matrix turned."""

    def __init__(
        self, of: ir.TensorProtocol, read: Callable[[], ir.TensorProtocol], dtype: ir.DataType, *, turned: bool = False
    ) -> None:
        shape = of.shape.numpy()
        super().__init__(read, dtype, ir.Shape(shape[::-1] if turned else shape), name=of.name)
        self.of, self.turned = of, turned


def turned(tensor: ir.TensorProtocol) -> DerivedTensor:
    """A matrix transposed whenever it is read."""

    def read() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(tensor.numpy().T), name=tensor.name)

    return DerivedTensor(tensor, read, tensor.dtype, turned=True)


STORED = {"F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16}
"""ONNX's element types by safetensors' names."""


def detach_weights(model: ir.Model, names: Collection[str]) -> None:
    """Leaves the initializers of these names without a value: what folds constants then lets them be."""
    for value in model.graph.initializers.values():
        if value.name in names and value.const_value is not None:
            value.type = ir.TensorType(value.const_value.dtype)
            value.shape = ir.Shape(value.const_value.shape.numpy())
            value.const_value = None


def place_weights(model: ir.Model) -> None:
    """Puts a placeholder where an initializer has no value, so that the graph can be saved without its weights."""
    for value in model.graph.initializers.values():
        if value.const_value is None:
            assert value.dtype is not None and value.shape is not None and value.name is not None
            value.const_value = ir.ExternalTensor(
                CHECKPOINT, None, None, value.dtype, shape=ir.Shape(value.shape.numpy()), name=value.name
            )


def is_placeholder(tensor: ir.TensorProtocol) -> bool:
    """Whether a weight is yet to be attached."""
    return isinstance(tensor, ir.ExternalTensor) and tensor.location == CHECKPOINT


def attach_weights(model: ir.Model, weights: Weights | None) -> None:
    """Puts a network's weights where placeholders are. Raises PairError for a checkpoint that is not this graph's."""
    values = model.graph.initializers.values()
    holes = {v.name or "": v for v in values if v.const_value is not None and is_placeholder(v.const_value)}
    if not holes:
        return
    assert weights is not None, "a network without weights has no placeholders"
    weights.check_fits({name: _extents(value) for name, value in holes.items()})
    for name, value in holes.items():
        value.const_value = CheckpointTensor(weights[name], name)


def held_quantised(tensor: ir.TensorProtocol | None) -> HeldQuantised | None:
    """A matrix that is a checkpoint's own in 8 bits, turned or not; its numbers lie as the checkpoint has them."""
    while isinstance(tensor, DerivedTensor):
        tensor = tensor.of
    return tensor.weight.quantised if isinstance(tensor, CheckpointTensor) else None


@dataclass(frozen=True)
class Traced:
    """An initialiser that is a whole tensor of the checkpoint: which one, and the order in which its axes lie."""

    origin: Origin
    axes: tuple[int, ...]


def trace_weights(model: ir.Model, weights: Weights | None) -> dict[str, Traced]:
    """The initialisers that are tensors of a network's checkpoint, by name, as passes left them."""
    if weights is None:
        return {}
    names = {weights[name]: name for name in weights.origins}
    found = {}
    for value in model.graph.initializers.values():
        tensor, turned = value.const_value, False
        while isinstance(tensor, DerivedTensor):
            turned, tensor = turned != tensor.turned, tensor.of
        if isinstance(tensor, CheckpointTensor) and tensor.weight in names:
            origin = weights.origins[names[tensor.weight]]
            # A matrix's rows are the first axis, whatever its columns are made of.
            axes = (*origin.axes[1:], origin.axes[0]) if turned else origin.axes
            found[value.name or ""] = Traced(origin, axes)
    return found


def _extents(value: ir.Value) -> tuple[int, ...]:
    assert value.const_value is not None
    return tuple(value.const_value.shape.numpy())
