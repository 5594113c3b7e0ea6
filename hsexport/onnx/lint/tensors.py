"""Rules about element types and weights."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from hsexport.onnx.lint.finding import Finding, Subject, name_of

LARGEST_PROTOBUF = 2**31 - 1


def bf16_on_cpu(subject: Subject) -> Iterator[Finding]:
    """ONNX Runtime's CPU kernels have no bf16; one finding says it for the whole graph."""
    if not subject.chokes_on("bf16-on-cpu"):
        return
    remedy = "build in fp32, or name another backend"
    if subject.precision == "bf16":
        name = subject.model.graph.name or "the graph"
        yield Finding("bf16-on-cpu", name, "meant to be bf16, which ONNX Runtime's CPU kernels lack", remedy, True)
        return
    for node in subject.nodes():
        if _touches(node, ir.DataType.BFLOAT16):
            said = f"a {node.op_type} in bf16, which ONNX Runtime's CPU kernels lack"
            yield Finding("bf16-on-cpu", name_of(node), said, remedy, True)
            return


def doubles(subject: Subject) -> Iterator[Finding]:
    """TensorRT has no float64; elsewhere it is only slow."""
    refused = subject.chokes_on("float64")
    for node in subject.nodes():
        if _touches(node, ir.DataType.DOUBLE):
            said = f"a {node.op_type} in float64" + (", which TensorRT lacks" if refused else "")
            yield Finding("float64", name_of(node), said, "cast to float32 in the module", refused)


def inline_weights(subject: Subject) -> Iterator[Finding]:
    """Weights inside the ONNX file itself must fit one protobuf message; lazy ones are written outside it."""
    inline = [
        value.const_value
        for value in subject.model.graph.initializers.values()
        if value.const_value is not None and not isinstance(value.const_value, ir.ExternalTensor | ir.LazyTensor)
    ]
    size = sum(tensor.nbytes for tensor in inline)
    if size > LARGEST_PROTOBUF:
        largest = max(inline, key=lambda tensor: tensor.nbytes)
        said = f"{size / 2**30:.1f} GiB of weights inside the file, where protobuf stops at 2 GiB; this is the largest"
        yield Finding("inline-weights", largest.name or "weights", said, "save weights as external data", True)


def _touches(node: ir.Node, dtype: ir.DataType) -> bool:
    return any(value is not None and value.dtype == dtype for value in (*node.inputs, *node.outputs))
