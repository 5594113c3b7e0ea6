"""What every pass over a graph is here: an onnx_ir pass whose errors name it and the node it cannot do with."""

from __future__ import annotations

import onnx_ir as ir

from hsengines.errors import HSError

ORT_DOMAIN = "com.microsoft"
"""Of operators that only ONNX Runtime has; hsengines.screening lists those that are used."""
_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


class PassError(HSError):
    """A graph does not meet a pass's conditions; the message names the pass and the node or tensor."""


class GraphPass(ir.passes.InPlacePass):
    """A pass over one flat graph, in place, to be run by `apply`; what it found out stays with it.

    Where it does not say otherwise, it requires a graph without subgraphs, functions or operators of foreign domains.
    """

    domains: tuple[str, ...] = ("", "ai.onnx")
    """Whose operators it takes."""
    takes_subgraphs = False

    def requires(self, model: ir.Model) -> None:
        """Raises PassError if the graph is not flat."""
        if model.functions:
            name = next(iter(model.functions.values())).name
            raise self.refusal(f"the model has the function '{name}', expected none", "inline it first")
        for node in model.graph:
            if not self.takes_subgraphs and any(a.type in _SUBGRAPHS for a in node.attributes.values()):
                raise self.refusal(f"node '{node.name}' ({node.op_type}) has a subgraph, expected none")
            if node.domain not in self.domains:
                raise self.refusal(f"node '{node.name}' is {node.domain}.{node.op_type}, expected plain ONNX")

    def refusal(self, said: str, hint: str = "") -> PassError:
        """The error of this pass."""
        return PassError(f"{type(self).__name__}: {said}", hint)


def add_initializer(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    """A new initialiser of a graph, called as the tensor is."""
    shape, kind = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
    value = ir.Value(name=tensor.name, shape=shape, type=kind, const_value=tensor)
    graph.register_initializer(value)
    return value


def apply(model: ir.Model, *passes: ir.passes.PassBase) -> None:
    """Runs passes in order, in place. Raises PassError."""
    if not passes:
        return
    try:
        ir.passes.Sequential(*passes)(model)
    except (ir.passes.PassError, ir.passes.InvariantError) as err:
        raise_own(err)
        raise PassError(f"{err}: {err.__cause__}") from err


def raise_own(err: BaseException) -> None:
    """Raises the HSError that is at the bottom of a foreign one: onnx_ir wraps what goes wrong, several times over."""
    cause: BaseException | None = err
    while cause is not None:
        if isinstance(cause, HSError):
            raise cause from cause.__cause__
        cause = cause.__cause__
