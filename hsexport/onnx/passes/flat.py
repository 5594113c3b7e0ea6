"""The precondition all passes share: one graph, no subgraphs, no functions, standard operators."""

from __future__ import annotations

import onnx_ir as ir

from hsexport.onnx.passes.errors import PassError


def check_flat(model: ir.Model, wanted_by: str) -> None:
    """Raises PassError if the model has local functions, a node with a subgraph, or one of a foreign domain."""
    if model.functions:
        name = next(iter(model.functions.values())).name
        raise PassError(f"{wanted_by}: the model has the function '{name}', expected none", "inline it first")
    for node in model.graph:
        if any(attribute.type in _SUBGRAPHS for attribute in node.attributes.values()):
            raise PassError(f"{wanted_by}: node '{node.name}' ({node.op_type}) has a subgraph, expected none")
        if node.domain not in ("", "ai.onnx"):
            raise PassError(f"{wanted_by}: node '{node.name}' is {node.domain}.{node.op_type}, expected plain ONNX")


_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
