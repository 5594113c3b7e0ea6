"""Where a network's blocks end: values to compare block by block."""

from __future__ import annotations

import onnx_ir as ir

from hsexport.onnx.passes.graph_pass import ORT_DOMAIN, GraphPass
from hsexport.onnx.passes.name_by_module import block_of, module_path


class ExposeBlocks(GraphPass):
    """Makes what each block ("transformer_blocks.7") hands on a graph output; `outputs` has their names by block.

    That is every float that leaves a block and goes into nothing else that leaves it: a block's stream, and as
    "transformer_blocks.7/2" its second one, but not its keys and values. A graph and its casts have the same ones.
    Nodes carry their modules' names (NameByModule).
    """

    domains = (*GraphPass.domains, ORT_DOMAIN)

    def __init__(self) -> None:
        self.outputs: dict[str, str] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """In place."""
        before = len(model.graph.outputs)
        blocks: dict[str, list[ir.Node]] = {}
        for node in model.graph:
            if name := block_of(module_path(node)):
                blocks.setdefault(name, []).append(node)
        ends = [(name, _last_leaving(name, nodes)) for name, nodes in blocks.items()]
        for name, values in ends:
            for number, value in enumerate(values, start=1):
                self.outputs[name if number == 1 else f"{name}/{number}"] = value.name or ""
                if not value.is_graph_output():
                    model.graph.outputs.append(value)
        return ir.passes.PassResult(model, modified=len(model.graph.outputs) > before)


def _last_leaving(name: str, nodes: list[ir.Node]) -> list[ir.Value]:
    leads_out: set[ir.Node] = set()
    last: list[ir.Value] = []
    for node in reversed(nodes):
        leaving = [value for value in node.outputs if _leaves(value, name)]
        if any(reader in leads_out for reader in node.successors()):
            leads_out.add(node)
        elif leaving:
            leads_out.add(node)
            last = leaving + last
    return last


def _leaves(value: ir.Value, name: str) -> bool:
    if value.dtype is None or not value.dtype.is_floating_point():
        return False
    return value.is_graph_output() or any(block_of(module_path(reader)) != name for reader, _ in value.uses())
