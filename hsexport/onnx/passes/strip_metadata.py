"""Removes what the exporter notes about where a node came from."""

from __future__ import annotations

import onnx_ir as ir


def strip_metadata(model: ir.Model) -> None:
    """Clears stack traces and module paths, in place.

    They hold paths of the building machine, triple the graph's size, and make two exports of one module differ.
    """
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        node.metadata_props.clear()
        node.doc_string = None
        for output in node.outputs:
            output.metadata_props.clear()
