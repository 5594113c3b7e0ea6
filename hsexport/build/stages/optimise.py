"""The optimise stage: every graph linted, put through its backend's passes and cast."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hsengines.errors import HSError
from hsengines.spec import FLOATS, numpy_dtype
from hsengines.traits import traits_of
from hsengines.weights import UNQUANTIZED
from hsexport.build.stages.stage import Job, Product, Run
from hsexport.build.store import BuildKey, source_digest
from hsexport.networks.network import Fp32Rule
from hsexport.progress import bytes_told
from hsruntime.adapters.changeable import Initialiser
from hsruntime.bundle.manifest import Fp32Block, OtherWeights
from hsruntime.bundle.reader import sha256_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from hsexport.onnx.lint.rules import Finding
    from hsexport.onnx.passes.quantise import Quantise, Storage
    from hsexport.onnx.weights import Traced


class GraphReport(msgspec.Struct, frozen=True):
    """What is kept beside a graph; its warnings are told again whenever the graph is taken from the store."""

    fp32_blocks: list[Fp32Block]
    warnings: list[str]
    initialisers: list[Initialiser]
    """The checkpoint's tensors where they lie in the graph's data file, for adapters at run time."""
    products: dict[str, int] = msgspec.field(default_factory=dict)
    other_weights: list[OtherWeights] = msgspec.field(default_factory=list)
    """Both as in the manifest."""


class GraphError(HSError):
    """A graph that its backend would choke on, or an option that touches no graph."""


def optimise_all(products: Sequence[Product], run: Run) -> None:
    """A graph with its weights as its backend takes it.

    Raises GraphError or PassError; the former also for a pattern of --fp32 that holds no node of any graph.
    """

    def jobs(product: Product) -> Iterator[Job]:
        rules = product.network.fp32_rules(product.precision, run.request.fp32)
        yield "graph", _key(product, run, rules), lambda folder: _optimised(product, run, rules, folder)
        for warning in product.record("graph", GraphReport).warnings:
            run.reporter.warn(warning)

    run.stage("optimise", products, jobs, made=_told)
    matched = {block.name for product in products for block in product.record("graph", GraphReport).fp32_blocks}
    for pattern in run.request.fp32:
        if pattern not in matched:
            raise GraphError(
                f"--fp32 '{pattern}' holds no node of any graph that is cast to {run.request.options.precision}",
                "write it like large:transformer_blocks.35*; `inspect` shows what stays in fp32",
            )


def _told(product: Product) -> str:
    return product.precision + (f", weights in {product.weights}" if product.weights != UNQUANTIZED else "")


def _key(product: Product, run: Run, rules: Sequence[Fp32Rule]) -> BuildKey:
    weights = product.network.weights
    facts = {
        "graph": sha256_of(product.onnx),
        "backend": run.request.backend,
        "precision": product.precision,
        "fp32 blocks": ", ".join(" ".join((rule.name, *rule.modules, *rule.operators)) for rule in rules),
        "narrow tensors": json.dumps(product.network.narrow_tensors),
        "hsexport": source_digest("optimise"),
    }
    if weights:
        facts |= {"weights": weights.digest, "weight format": product.weights, "refers": str(_refers(run))}
    if product.weights != UNQUANTIZED:
        facts["weights by module"] = json.dumps([e.__dict__ for e in run.asked_weights if e.modules])
        facts["weight rules"] = json.dumps([rule.__dict__ for rule in product.network.weight_rules])
        facts["tables"] = ", ".join(product.network.tables)
        facts["calibration"] = run.ranges(product.name).digest
    return BuildKey("graph", product.name, facts)


def _optimised(product: Product, run: Run, rules: Sequence[Fp32Rule], folder: Path) -> GraphReport:
    """Writes the graph; says what stays in fp32, and what lint had to say of it as it was exported."""
    from hsexport.onnx.graph_files import load_graph, save_graph
    from hsexport.onnx.lint.rules import lint
    from hsexport.onnx.passes.prepare import prepare
    from hsexport.onnx.weights import attach_weights, trace_weights

    network, backend, model = product.network, run.request.backend, load_graph(product.onnx)
    warnings = _warnings(product.name, lint(model, backend, product.precision))
    attach_weights(model, network.weights)
    storage = _storage(product, run)
    cast, quantise = prepare(model, backend, product.precision, network.narrow_tensors, rules, storage)
    traced, on_bytes = trace_weights(model, network.weights), bytes_told(run.reporter, product.name, "written")
    file = folder / product.onnx.name
    offsets = save_graph(model, file, refer=_refers(run), beside=traced, on_bytes=on_bytes)
    placed = [_initialiser(model, name, traced[name], offsets[name]) for name in traced if name in offsets]
    held = [block for block in cast.held if block.nodes] if cast else []
    return GraphReport(held, warnings, placed, *(_counted(quantise) if quantise else ()))


def _storage(product: Product, run: Run) -> Storage | None:
    """What decides how weights are stored; None for a network whose weights stay as they are."""
    if product.weights == UNQUANTIZED:
        return None
    from hsexport.onnx.passes.quantise import Storage

    traits, ranges = traits_of(run.request.backend), run.ranges(product.name)
    return Storage(
        lambda module: product.network.format_of(run.asked_weights, module),
        traits.quantised_kinds,
        product.network.is_table,
        ranges.largest,
        ranges.importance,
        numpy_dtype(FLOATS[product.precision]),
        traits.int8_bits,
        traits.products_with_bias,
    )


def _counted(quantise: Quantise) -> tuple[dict[str, int], list[OtherWeights]]:
    measured = {ACTIVATIONS: quantise.measured} if quantise.measured else {}
    other = (OtherWeights(format=f, products=n, reason=r) for (f, r), n in quantise.kept.items())
    return dict(quantise.stored) | measured, list(other)


ACTIVATIONS = "activations"
"""What products with quantised activations are counted under."""


def _refers(run: Run) -> bool:
    """Whether the graph's file needs no copy of weights: where engines hold theirs, it is gone after the build."""
    leaves = run.request.options.leaves_weights or run.request.options.takes_weights
    return traits_of(run.request.backend).resident_weights and not leaves


def _initialiser(model: ir.Model, name: str, traced: Traced, offset: int) -> Initialiser:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return Initialiser(
        name=name,
        weight=traced.origin.name,
        dtype=tensor.dtype.numpy().name,
        shape=tuple(tensor.shape.numpy()),
        axes=traced.axes,
        offset=offset,
    )


def _warnings(network: str, findings: Sequence[Finding]) -> list[str]:
    """One line for each rule: the first that it is about, and how many more. Raises GraphError for a refusal."""
    by_rule: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.refused:
            raise GraphError(f"network '{network}', node '{finding.node}': {finding.said}", finding.hint)
        by_rule.setdefault(finding.rule, []).append(finding)
    return [
        f"network '{network}', {first}" + (f" ({len(others)} more like it)" if others else "")
        for first, *others in by_rule.values()
    ]
