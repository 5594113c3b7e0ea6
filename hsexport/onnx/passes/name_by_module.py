"""Names every node after the module it came from: what builders report, islands match and audits show."""

from __future__ import annotations

import ast

import onnx_ir as ir

from hsexport.onnx.passes.errors import PassError
from hsexport.onnx.passes.flat import check_flat
from hsexport.onnx.passes.names import UniqueNames, block_of, node_name

SCOPES = "pkg.torch.onnx.name_scopes"


def name_by_module(model: ir.Model) -> None:
    """Renames nodes in place to "<module path>/<operator>", numbered from the second of a name on.

    A node of functional code (attention, reshapes, residual sums) belongs to no submodule; it gets the block, the
    outermost numbered module, of the latest of its producers that has one, and the bare operator if none has.
    Preconditions: no subgraphs or functions, nodes in topological order, the exporter's name scopes not stripped yet.
    Raises PassError.
    """
    check_flat(model, "name_by_module")
    names, paths, order = UniqueNames(), dict[ir.Node, str](), dict[ir.Node, int]()
    for place, node in enumerate(model.graph):
        for producer in node.predecessors():
            if producer not in order:
                raise PassError(f"name_by_module: node '{node.name}' comes before its input's node '{producer.name}'")
        paths[node] = _scope(node) or _inherited_block(node, paths, order)
        order[node] = place
    if paths and not any(SCOPES in node.metadata_props for node in paths):
        raise PassError(
            f"name_by_module: no node of '{model.graph.name}' says which module it came from",
            "name the nodes before metadata is stripped",
        )
    for node, path in paths.items():
        node.name = names.unique(node_name(path, node.op_type))


def _scope(node: ir.Node) -> str:
    """The path of the innermost submodule; the last scope is the traced operation itself."""
    text = node.metadata_props.get(SCOPES)
    if text is None:
        return ""
    try:
        scopes = ast.literal_eval(text)
    except (SyntaxError, ValueError) as err:
        raise PassError(f"name_by_module: node '{node.name}' has the scopes {text}, expected a list") from err
    # torch puts a name of its own where it has lost the module.
    return scopes[-2] if len(scopes) > 1 and not scopes[-2].startswith("_") else ""


def _inherited_block(node: ir.Node, paths: dict[ir.Node, str], order: dict[ir.Node, int]) -> str:
    blocks = [(order[p], block_of(paths[p])) for p in node.predecessors() if block_of(paths[p])]
    return max(blocks)[1] if blocks else ""
