"""The optimise stage: every graph linted, put through its backend's passes and cast, by way of the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hsengines.errors import HSError
from hsengines.spec import EngineSpec
from hsengines.traits import traits_of
from hsexport.build.source_digest import source_digest
from hsexport.build.stages.export import ExportedNetwork
from hsexport.build.store import BuildKey, Store
from hsexport.networks.network import Fp32Rule, Network
from hsexport.onnx.passes.fp32_blocks import fp32_rules
from hsexport.progress import OnBytes, Reporter, bytes_told
from hsruntime.bundle.manifest import Fp32Block
from hsruntime.bundle.reader import sha256_of

if TYPE_CHECKING:
    from hsexport.onnx.lint import Finding

REPORT = "report.json"


@dataclass(frozen=True)
class Graph:
    """A network as its backend takes it: `spec` carries the dtypes of its precision; `golden` is still fp32.

    `digests` are the sha256 of the graph's file and of each that holds weights of it, as facts of a build key.
    """

    network: Network
    spec: EngineSpec
    precision: str
    onnx: Path
    golden: Path
    fp32_blocks: tuple[Fp32Block, ...]
    digests: Mapping[str, str]

    @property
    def name(self) -> str:
        """The engine's name."""
        return self.spec.name


class _Report(msgspec.Struct, frozen=True):
    """What the store keeps beside a graph; its warnings are told again whenever it is taken from there."""

    fp32_blocks: list[Fp32Block]
    warnings: list[str]


class GraphError(HSError):
    """A graph that its backend would choke on, or an option that touches no graph."""


def optimise_all(
    exported: list[ExportedNetwork],
    backend: str,
    precision: str,
    fp32: Sequence[str],
    store: Store,
    reporter: Reporter,
) -> list[Graph]:
    """Optimises what the store does not hold yet. `fp32` is what users add to the fp32 block list.

    Raises GraphError or PassError; the former also for a pattern in `fp32` that holds no node of any graph.
    """
    reporter.stage("optimise", len(exported))
    graphs = [_optimise(each, backend, precision, fp32, store, reporter) for each in exported]
    matched = {block.name for graph in graphs for block in graph.fp32_blocks}
    for pattern in fp32:
        if pattern not in matched:
            raise GraphError(
                f"--fp32 '{pattern}' holds no node of any graph that is cast to {precision}",
                "write it like large:transformer_blocks.35*; `inspect` shows what stays in fp32",
            )
    return graphs


def _optimise(
    exported: ExportedNetwork, backend: str, precision: str, fp32: Sequence[str], store: Store, reporter: Reporter
) -> Graph:
    network = exported.network
    own = network.precision_in(precision)
    rules = fp32_rules(network, own, fp32)
    key = _key(exported, backend, own, rules)
    found = store.find(key)
    reporter.begin(network.name, "" if found else store.why_missing(key))

    def fill(folder: Path) -> None:
        _fill(exported, backend, own, rules, folder, bytes_told(reporter, network.name, "written"))

    entry = found or store.make(key, fill, lambda: reporter.wait(network.name))
    report = msgspec.json.decode((entry / REPORT).read_bytes(), type=_Report)
    for warning in report.warnings:
        reporter.warn(warning)
    reporter.end(network.name, "kept from an earlier build" if found else own)
    digests = store.digests(entry)
    del digests[REPORT]
    onnx = entry / exported.onnx.name
    return Graph(network, network.spec_at(own), own, onnx, exported.golden, tuple(report.fp32_blocks), digests)


def _key(exported: ExportedNetwork, backend: str, precision: str, rules: Sequence[Fp32Rule]) -> BuildKey:
    weights = exported.network.weights
    facts = {
        "graph": sha256_of(exported.onnx),
        "backend": backend,
        "precision": precision,
        "fp32 blocks": ", ".join(" ".join((rule.name, *rule.modules, *rule.operators)) for rule in rules),
        "narrow tensors": json.dumps(exported.network.narrow_tensors),
        "hsexport": source_digest("optimise"),
    }
    return BuildKey("graph", exported.network.name, facts | ({"weights": weights.digest} if weights else {}))


def _fill(
    exported: ExportedNetwork,
    backend: str,
    precision: str,
    rules: Sequence[Fp32Rule],
    folder: Path,
    on_bytes: OnBytes,
) -> None:
    """Writes the graph with its weights, what stays in fp32, and what lint has to say of it as it was exported."""
    from hsexport.onnx.graph_files import load_graph, save_graph
    from hsexport.onnx.lint import lint
    from hsexport.onnx.passes.prepare import prepare
    from hsexport.onnx.weights import attach_weights

    network, model = exported.network, load_graph(exported.onnx)
    warnings = _warnings(network.name, lint(model, backend, precision))
    attach_weights(model, network.weights)
    cast = prepare(model, backend, precision, network.narrow_tensors, rules)
    # Where engines hold their weights, the graph is gone after the build, and needs no copy of its own.
    save_graph(model, folder / exported.onnx.name, refer=traits_of(backend).resident_weights, on_bytes=on_bytes)
    report = _Report([record for record in cast.held if record.nodes] if cast else [], warnings)
    (folder / REPORT).write_bytes(msgspec.json.encode(report))


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
