"""Removes what the exporter notes about where a node came from."""

from __future__ import annotations

import onnx_ir as ir


class StripMetadata(ir.passes.InPlacePass):
    """Clears stack traces and module paths, of values too, which onnx_ir's own pass leaves.

    They hold paths of the building machine, triple the graph's size, and make two exports of one module differ.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """In place."""
        model.metadata_props.clear()
        model.graph.metadata_props.clear()
        for value in (*model.graph.inputs, *model.graph.initializers.values()):
            value.metadata_props.clear()
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            node.metadata_props.clear()
            node.doc_string = None
            for output in node.outputs:
                output.metadata_props.clear()
        return ir.passes.PassResult(model, modified=True)
