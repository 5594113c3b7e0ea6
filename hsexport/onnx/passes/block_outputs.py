"""Where a network's blocks end: values to compare block by block."""

from __future__ import annotations

import onnx_ir as ir

from hsexport.onnx.passes.errors import PassError
from hsexport.onnx.passes.names import block_of, module_path


def block_boundaries(model: ir.Model) -> dict[str, ir.Value]:
    """What each block ("transformer_blocks.7") hands on, in the graph's order.

    That is every float that leaves a block and goes into nothing else that leaves it: an MMDiT block's image stream,
    and as "transformer_blocks.7/2" its text stream, but not its keys and values. A graph and its casts have the same
    boundaries. Precondition: nodes carry their modules' names (name_by_module); raises PassError if none has a block.
    """
    blocks: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        name = block_of(module_path(node))
        if name:
            blocks.setdefault(name, []).append(node)
    if not blocks:
        raise PassError(f"block_boundaries: no node of '{model.graph.name}' is named after a numbered module")
    found: dict[str, ir.Value] = {}
    for name, nodes in blocks.items():
        for number, value in enumerate(_last_leaving(name, nodes), start=1):
            found[name if number == 1 else f"{name}/{number}"] = value
    return found


def expose_blocks(model: ir.Model) -> dict[str, str]:
    """Makes every block boundary a graph output, in place; boundary to output name."""
    boundaries = block_boundaries(model)
    for value in boundaries.values():
        if not value.is_graph_output():
            model.graph.outputs.append(value)
    return {boundary: value.name or "" for boundary, value in boundaries.items()}


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
