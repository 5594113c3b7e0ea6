"""What a backend would choke on in an exported graph, in words: rules about operators, element types and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from hsengines.traits import traits_of

LARGEST_TOP_K = 3840
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


Remark = tuple[ir.Node, str, str, bool]
"""A finding but for its rule: the node, what is wrong with it, what to do, whether it is refused."""
Rule = Callable[[Subject], Iterator[Remark]]


def name_of(node: ir.Node) -> str:
    """A node's name, or its operator's and output's if it has none."""
    return node.name or f"{node.op_type} of '{node.outputs[0].name if node.outputs else ''}'"


def attention_outputs(subject: Subject) -> Iterator[Remark]:
    """TensorRT takes Attention with its first output only."""
    for node in subject.nodes("Attention"):
        used = [value.name for value in node.outputs[1:] if value.uses() or value.is_graph_output()]
        if used:
            said = f"an Attention whose output '{used[0]}' is used, where TensorRT has the first alone"
            yield node, said, "join keys and values outside the operator", True


def attention_in_fp32(subject: Subject) -> Iterator[Remark]:
    """TensorRT-RTX has no fp32 kernels for Attention."""
    for node in subject.nodes("Attention") if subject.precision == "fp32" else ():
        said = "an Attention in fp32, for which TensorRT-RTX has no kernel"
        yield node, said, "build with --precision fp16 or bf16", True


def large_top_k(subject: Subject) -> Iterator[Remark]:
    """TensorRT's TopK stops at 3840."""
    for node in subject.nodes("TopK"):
        count = ir.convenience.get_const_tensor(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
        if count is None:
            said = f"a TopK whose K is not known before it runs; TensorRT takes up to {LARGEST_TOP_K}"
            yield node, said, "select on the host", False
        elif int(count.numpy().max()) > LARGEST_TOP_K:
            said = f"a TopK of {int(count.numpy().max())}, where TensorRT takes up to {LARGEST_TOP_K}"
            yield node, said, "select on the host", True


def data_dependent_shapes(subject: Subject) -> Iterator[Remark]:
    """Shapes that follow from values cannot be captured in a CUDA graph."""
    for node in subject.nodes(*_DATA_DEPENDENT) if subject.for_gpu else ():
        said = f"the shape that {node.op_type} answers depends on values, so that no CUDA graph can hold it"
        yield node, said, "select on the host, and hand over indices", True


def gather_nd_indices(subject: Subject) -> Iterator[Remark]:
    """ONNX Runtime has GatherND with int64 indices only."""
    for node in subject.nodes("GatherND"):
        if any(value is not None and value.dtype == ir.DataType.INT32 for value in node.inputs[1:]):
            said = "a GatherND with int32 indices, where ONNX Runtime wants int64"
            yield node, said, "use index_select, or cast the indices", True


def control_flow(subject: Subject) -> Iterator[Remark]:
    """Branches and loops: no cast to half reaches into them, and no CUDA graph holds them."""
    for node in subject.nodes(*_CONTROL_FLOW):
        said = f"{node.op_type} decides while the network runs what is computed"
        yield node, said, "unroll it before the export", subject.for_gpu


def foreign_domains(subject: Subject) -> Iterator[Remark]:
    """Operators that are not ONNX's own."""
    for node in subject.nodes():
        if node.domain not in ("", "ai.onnx"):
            said = f"the operator {node.domain}.{node.op_type} is not part of ONNX"
            yield node, said, "write it in plain operators", True


def leftovers(subject: Subject) -> Iterator[Remark]:
    """What an optimiser should have folded away."""
    for node in subject.nodes(*_LEFTOVERS):
        yield node, f"{node.op_type} is left over and computes nothing", "fold it before the build", False


def bf16_on_cpu(subject: Subject) -> Iterator[Remark]:
    """ONNX Runtime's CPU kernels have no bf16; one finding says it for the whole graph."""
    for node in subject.nodes():
        if _touches(node, ir.DataType.BFLOAT16):
            said = f"{node.op_type} in bf16, which ONNX Runtime's CPU kernels lack"
            yield node, said, "build in fp32, or name another backend", True
            return


def doubles(subject: Subject) -> Iterator[Remark]:
    """Float64 is slow, and some backends lack it."""
    refused = "float64" in traits_of(subject.backend).rules
    for node in subject.nodes():
        if _touches(node, ir.DataType.DOUBLE):
            said = f"{node.op_type} in float64" + (f", which {subject.backend} lacks" if refused else "")
            yield node, said, "cast to float32 in the module", refused


def _touches(node: ir.Node, dtype: ir.DataType) -> bool:
    return any(value is not None and value.dtype == dtype for value in (*node.inputs, *node.outputs))


RULES: dict[str, Rule] = {
    "data-dependent-shape": data_dependent_shapes,
    "control-flow": control_flow,
    "foreign-domain": foreign_domains,
    "float64": doubles,
    "leftover": leftovers,
}
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
    subject, named = Subject(model, backend, precision), traits_of(backend).rules
    rules = RULES | {name: rule for name, rule in BACKEND_RULES.items() if name in named}
    findings = [Finding(name, name_of(found[0]), *found[1:]) for name, rule in rules.items() for found in rule(subject)]
    return sorted(findings, key=lambda finding: not finding.refused)
