"""Names every node after the module it came from: what builders report, fp32 blocks match and audits show."""

from __future__ import annotations

import ast

import onnx_ir as ir

from hsexport.onnx.passes.graph_pass import GraphPass
from hsexport.onnx.passes.names import UniqueNames, block_of, node_name

SCOPES = "pkg.torch.onnx.name_scopes"


class NameByModule(GraphPass):
    """Renames nodes to "<module path>/<operator>", numbered from the second of a name on.

    A node of functional code (attention, reshapes, residual sums) belongs to no submodule; it gets the block, the
    outermost numbered module, of the latest of its producers that has one, and the bare operator if none has.
    Requires nodes in topological order, and the exporter's name scopes, not stripped yet; of subgraphs and foreign
    operators, which lint has yet to tell of, it asks nothing, and nodes in a subgraph keep their names.
    """

    def requires(self, model: ir.Model) -> None:
        """Raises PassError."""
        seen: set[ir.Node] = set()
        for node in model.graph:
            for producer in node.predecessors():
                if producer not in seen:
                    raise self.refusal(f"node '{node.name}' comes before its input's node '{producer.name}'")
            seen.add(node)
        if seen and not any(SCOPES in node.metadata_props for node in seen):
            raise self.refusal(
                f"no node of '{model.graph.name}' says which module it came from",
                "name the nodes before metadata is stripped",
            )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """In place."""
        names, paths, order = UniqueNames(), dict[ir.Node, str](), dict[ir.Node, int]()
        for place, node in enumerate(model.graph):
            paths[node] = self._scope(node) or _inherited_block(node, paths, order)
            order[node] = place
        for node, path in paths.items():
            node.name = names.unique(node_name(path, node.op_type))
        return ir.passes.PassResult(model, modified=bool(paths))

    def _scope(self, node: ir.Node) -> str:
        """The path of the innermost submodule; the last scope is the traced operation itself."""
        text = node.metadata_props.get(SCOPES)
        if text is None:
            return ""
        try:
            scopes = ast.literal_eval(text)
        except (SyntaxError, ValueError) as err:
            raise self.refusal(f"node '{node.name}' has the scopes {text}, expected a list") from err
        # torch puts a name of its own where it has lost the module.
        return scopes[-2] if len(scopes) > 1 and not scopes[-2].startswith("_") else ""


def _inherited_block(node: ir.Node, paths: dict[ir.Node, str], order: dict[ir.Node, int]) -> str:
    blocks = [(order[p], block_of(paths[p])) for p in node.predecessors() if block_of(paths[p])]
    return max(blocks)[1] if blocks else ""
