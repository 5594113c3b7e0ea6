"""What a backend would choke on in an exported graph, in words: rules about operators, element types and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from hsengines.traits import traits_of

LARGEST_TOP_K = 3840
LARGEST_PROTOBUF = 2**31 - 1
_DATA_DEPENDENT = ("NonZero", "Compress", "Unique", "NonMaxSuppression")
_CONTROL_FLOW = ("If", "Loop", "Scan")
_LEFTOVERS = (
    *("Identity", "Constant", "SequenceConstruct", "SequenceAt", "SequenceEmpty", "SequenceInsert"),
    *("SequenceErase", "SequenceLength", "SplitToSequence", "ConcatFromSequence"),
)


@dataclass(frozen=True)
class Finding:
    """One remark: `refused` if the backend would not take the graph, otherwise advice.

    `node` names the node or tensor; `said` is what is wrong with it, `hint` what to do.
    """

    rule: str
    node: str
    said: str
    hint: str
    refused: bool

    def __str__(self) -> str:
        return f"node '{self.node}': {self.said}; {self.hint}"


@dataclass(frozen=True)
class Subject:
    """A graph, and what it is meant for: `precision` is what it will be cast to, or has been."""

    model: ir.Model
    backend: str
    precision: str

    @property
    def for_gpu(self) -> bool:
        """Whether it is to be captured in a CUDA graph."""
        return not traits_of(self.backend).on_cpu

    def nodes(self, *operators: str) -> Iterator[ir.Node]:
        """All nodes, those in subgraphs and functions included; of these operators alone, if any are named."""
        graphs: list[ir.Graph | ir.Function] = [self.model.graph, *self.model.functions.values()]
        for graph in graphs:
            for node in ir.traversal.RecursiveGraphIterator(graph):
                if not operators or node.op_type in operators:
                    yield node


Rule = Callable[[Subject], Iterator[Finding]]
"""One rule: every finding it has about a subject."""


def name_of(node: ir.Node) -> str:
    """A node's name, or its operator's and output's if it has none."""
    return node.name or f"{node.op_type} of '{node.outputs[0].name if node.outputs else ''}'"


def attention_outputs(subject: Subject) -> Iterator[Finding]:
    """TensorRT takes Attention with its first output only."""
    for node in subject.nodes("Attention"):
        used = [value.name for value in node.outputs[1:] if value.uses() or value.is_graph_output()]
        if used:
            said = f"an Attention whose output '{used[0]}' is used, where TensorRT has the first alone"
            yield Finding("attention-outputs", name_of(node), said, "join keys and values outside the operator", True)


def attention_in_fp32(subject: Subject) -> Iterator[Finding]:
    """TensorRT-RTX has no fp32 kernels for Attention."""
    if subject.precision != "fp32":
        return
    for node in subject.nodes("Attention"):
        said = "an Attention in fp32, for which TensorRT-RTX has no kernel"
        yield Finding("attention-fp32", name_of(node), said, "build with --precision fp16 or bf16", True)


def large_top_k(subject: Subject) -> Iterator[Finding]:
    """TensorRT's TopK stops at 3840."""
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
        said = f"{node.op_type} is left over and computes nothing"
        yield Finding("leftover", name_of(node), said, "fold it before the build", False)


def bf16_on_cpu(subject: Subject) -> Iterator[Finding]:
    """ONNX Runtime's CPU kernels have no bf16; one finding says it for the whole graph."""
    hint = "build in fp32, or name another backend"
    if subject.precision == "bf16":
        name = subject.model.graph.name or "the graph"
        yield Finding("bf16-on-cpu", name, "meant to be bf16, which ONNX Runtime's CPU kernels lack", hint, True)
        return
    for node in subject.nodes():
        if _touches(node, ir.DataType.BFLOAT16):
            said = f"{node.op_type} in bf16, which ONNX Runtime's CPU kernels lack"
            yield Finding("bf16-on-cpu", name_of(node), said, hint, True)
            return


def doubles(subject: Subject) -> Iterator[Finding]:
    """Float64 is slow, and some backends lack it."""
    refused = "float64" in traits_of(subject.backend).rules
    for node in subject.nodes():
        if _touches(node, ir.DataType.DOUBLE):
            said = f"{node.op_type} in float64" + (f", which {subject.backend} lacks" if refused else "")
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


RULES: tuple[Rule, ...] = (
    data_dependent_shapes,
    control_flow,
    foreign_domains,
    doubles,
    inline_weights,
    leftovers,
)
BACKEND_RULES: dict[str, Rule] = {
    "attention-outputs": attention_outputs,
    "attention-fp32": attention_in_fp32,
    "top-k": large_top_k,
    "gather-nd-indices": gather_nd_indices,
    "bf16-on-cpu": bf16_on_cpu,
}
"""For backends whose traits name them."""


def lint(model: ir.Model, backend: str, precision: str) -> list[Finding]:
    """What `backend` would choke on in a graph of `precision`, what it refuses first.

    The graph is an exported fp32 one that is still to be cast to `precision`. Nothing is changed.
    """
    subject = Subject(model, backend, precision)
    rules = (*RULES, *(rule for name, rule in BACKEND_RULES.items() if name in traits_of(backend).rules))
    findings = [finding for rule in rules for finding in rule(subject)]
    return sorted(findings, key=lambda finding: not finding.refused)
