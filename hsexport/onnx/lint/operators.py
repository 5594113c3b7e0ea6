"""Rules about single operators."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from hsexport.onnx.lint.finding import Finding, Subject, name_of

LARGEST_TOP_K = 3840
_DATA_DEPENDENT = ("NonZero", "Compress", "Unique", "NonMaxSuppression")
_CONTROL_FLOW = ("If", "Loop", "Scan")
_LEFTOVERS = (
    *("Identity", "Constant", "SequenceConstruct", "SequenceAt", "SequenceEmpty", "SequenceInsert"),
    *("SequenceErase", "SequenceLength", "SplitToSequence", "ConcatFromSequence"),
)


def attention_outputs(subject: Subject) -> Iterator[Finding]:
    """TensorRT takes Attention with its first output only."""
    if not subject.chokes_on("attention-outputs"):
        return
    for node in subject.nodes("Attention"):
        used = [value.name for value in node.outputs[1:] if value.uses() or value.is_graph_output()]
        if used:
            said = f"an Attention whose output '{used[0]}' is used, where TensorRT has the first alone"
            yield Finding("attention-outputs", name_of(node), said, "join keys and values outside the operator", True)


def attention_in_fp32(subject: Subject) -> Iterator[Finding]:
    """TensorRT-RTX has no fp32 kernels for Attention."""
    if not subject.chokes_on("attention-fp32") or subject.precision != "fp32":
        return
    for node in subject.nodes("Attention"):
        yield Finding(
            "attention-fp32",
            name_of(node),
            "an Attention in fp32, for which TensorRT-RTX has no kernel",
            "build with --precision fp16 or bf16",
            True,
        )


def large_top_k(subject: Subject) -> Iterator[Finding]:
    """TensorRT's TopK stops at 3840."""
    if not subject.chokes_on("top-k"):
        return
    for node in subject.nodes("TopK"):
        count = ir.convenience.get_const_tensor(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
        if count is None:
            said, refused = f"a TopK whose K is not known before it runs; TensorRT takes up to {LARGEST_TOP_K}", False
        elif int(count.numpy().max()) > LARGEST_TOP_K:
            said, refused = f"a TopK of {int(count.numpy().max())}, where TensorRT takes up to {LARGEST_TOP_K}", True
        else:
            continue
        yield Finding("top-k", name_of(node), said, "select on the host", refused)


def data_dependent_shapes(subject: Subject) -> Iterator[Finding]:
    """Shapes that follow from values cannot be captured in a CUDA graph."""
    if not subject.for_gpu:
        return
    for node in subject.nodes(*_DATA_DEPENDENT):
        said = f"the shape that {node.op_type} answers depends on values, so that no CUDA graph can hold it"
        yield Finding("data-dependent-shape", name_of(node), said, "select on the host, and hand over indices", True)


def gather_nd_indices(subject: Subject) -> Iterator[Finding]:
    """ONNX Runtime has GatherND with int64 indices only."""
    if not subject.chokes_on("gather-nd-indices"):
        return
    for node in subject.nodes("GatherND"):
        indices = node.inputs[1] if len(node.inputs) > 1 else None
        if indices is not None and indices.dtype == ir.DataType.INT32:
            said = "a GatherND with int32 indices, where ONNX Runtime wants int64"
            yield Finding("gather-nd-indices", name_of(node), said, "use index_select, or cast the indices", True)


def control_flow(subject: Subject) -> Iterator[Finding]:
    """Branches and loops: no cast to half reaches into them, and no CUDA graph holds them."""
    for node in subject.nodes(*_CONTROL_FLOW):
        said = f"{node.op_type} decides while the network runs what is computed"
        yield Finding("control-flow", name_of(node), said, "unroll it before the export", subject.for_gpu)


def foreign_domains(subject: Subject) -> Iterator[Finding]:
    """Operators that are not ONNX's own."""
    for node in subject.nodes():
        if node.domain not in ("", "ai.onnx"):
            said = f"the operator {node.domain}.{node.op_type} is not part of ONNX"
            yield Finding("foreign-domain", name_of(node), said, "write it in plain operators", True)


def leftovers(subject: Subject) -> Iterator[Finding]:
    """What an optimiser should have folded away."""
    for node in subject.nodes(*_LEFTOVERS):
        said = f"a {node.op_type} is left over that computes nothing"
        yield Finding("leftover", name_of(node), said, "fold it before the build", False)
