"""The exporter's graph folded and fused by onnxscript's own passes, without a look at a weight.

What `ONNXProgram.optimize` does, but for the order and for one rule. It holds every node against every rule before it
drops a node, and its rule for slices holds each slice against each other one: on a graph of 17,000 nodes that took
five minutes, this takes a few seconds and gives the same graph.
"""

from __future__ import annotations

import onnx_ir as ir
import onnxscript.optimizer
from onnx_ir.passes import common
from onnxscript.rewriter import onnx_fusions, rewrite
from onnxscript.rewriter.rules import common as rules

ROUNDS = 2
"""As onnxscript: what one rule leaves may be another's beginning."""
RULES = (
    rules.add_0_rule,
    rules.sub_0_rule,
    rules.mul_by_1_rule,
    rules.div_by_1_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.materialize_reshape_shape_rule,
    rules.min_min_rule,
    rules.max_max_rule,
    rules.min_max_rule,
    rules.max_min_rule,
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.no_op_transpose_rule,
    rules.reshape_reshape_rule,
    rules.squeeze_reshape_1d_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
)


def simplify(model: ir.Model) -> None:
    """In place. What is there twice goes first: seven tenths of what the exporter wrote."""
    ir.passes.Sequential(common.InlinePass(), common.IdentityEliminationPass())(model)
    onnxscript.optimizer.fold_constants(model)
    ir.passes.Sequential(common.RemoveUnusedNodesPass(), common.CommonSubexpressionEliminationPass())(model)
    for _ in range(ROUNDS):
        onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True)
        rewrite(model, RULES)
    onnx_fusions.fuse(model)  # root mean square norms
    ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)
