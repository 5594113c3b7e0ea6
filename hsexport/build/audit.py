"""The types that a built engine computes in, set beside those that its graph asks for."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hsengines.build import NODE_SEPARATOR, EngineFiles, Layer
from hsengines.errors import EngineBuildError
from hsexport.build.stages.optimise import Graph
from hsruntime.bundle.manifest import AuditRecord

if TYPE_CHECKING:
    import onnx_ir as ir

PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Attention")
"""The operators whose type decides speed and error; what lies between them is fused into them at will."""


def audit(graph: Graph, files: EngineFiles) -> AuditRecord | None:
    """What was found, which is what the graph asks for; None where the builder keeps the graph as it is.

    Raises EngineBuildError naming the first layer of another type: a builder that changes types does so silently.
    """
    if not files.layers:
        return None
    import onnx_ir as ir

    model = ir.load(graph.onnx)
    answers = {node.name or "": _dtypes(node) for node in model.graph}
    products = {node.name or "" for node in model.graph if node.op_type in PRODUCTS}
    seen: dict[str, str] = {}
    for layer in files.layers:
        nodes = layer.name.split(NODE_SEPARATOR)
        if products.isdisjoint(nodes):
            continue
        _check(graph.name, layer, {dtype for node in nodes for dtype in answers.get(node, ())})
        # A product with a bias is two layers of one node; the one that answers comes last.
        seen |= {node: layer.dtypes[0] for node in products.intersection(nodes) if layer.dtypes}
    return AuditRecord(read_from=files.layers_of, products=dict(Counter(seen.values()))) if seen else None


def _dtypes(node: ir.Node) -> tuple[str, ...]:
    return tuple(value.dtype.numpy().name for value in node.outputs if value.dtype is not None)


def _check(network: str, layer: Layer, asked: set[str]) -> None:
    other = [dtype for dtype in layer.dtypes if dtype not in asked]
    if other:
        raise EngineBuildError(
            f"engine '{network}', layer '{layer.name}' was built in {other[0]}, its graph asks for {sorted(asked)[0]}",
            "the builder changed the precision by itself; please report it with the builder's version",
        )
