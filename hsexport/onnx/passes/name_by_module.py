"""Names every node after the module it came from, "<module path>/<operator>": what builders report, fp32 blocks match
and audits show.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

import onnx_ir as ir

from hsexport.onnx.passes.graph_pass import GraphPass

SCOPES = "pkg.torch.onnx.name_scopes"
_BLOCK = re.compile(r"^.*?\.\d+(?=\.|$)")


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


class UniqueNames:
    """Hands out names that were not handed out before: "a/Add", "a/Add_2", "a/Add_3"."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._last: dict[str, int] = {}

    def unique(self, wanted: str) -> str:
        """`wanted` itself, or with the first free number behind it."""
        name = wanted
        while name in self._taken:
            self._last[wanted] = self._last.get(wanted, 1) + 1
            name = f"{wanted}_{self._last[wanted]}"
        self._taken.add(name)
        return name


def node_name(path: str, operator: str) -> str:
    """The name of a node of `operator` in the module at `path`; "" is the network itself."""
    return f"{path}/{operator}" if path else operator


def module_path(node: ir.Node) -> str:
    """The module path in a node's name; "" if it has none."""
    return (node.name or "").rpartition("/")[0]


def block_of(path: str) -> str:
    """The outermost numbered module on a path: "transformer_blocks.7" of "transformer_blocks.7.attn.to_out.0".

    "" if nothing on the path is numbered. The innermost would be wrong: `to_out.0` is numbered, too.
    """
    match = _BLOCK.match(path)
    return match.group() if match else ""
