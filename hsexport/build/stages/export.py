"""The export stage: every network to ONNX with its golden, by way of the store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec

from hsexport.build.source_digest import source_digest
from hsexport.build.store import BuildKey, Store
from hsexport.networks.network import Network, reference_outputs
from hsexport.progress import Reporter, bytes_told
from hsruntime.bundle.golden import save_golden

GOLDEN = "golden.npz"
TOOLS = ("torch", "diffusers", "transformers", "onnx", "onnxscript")


@dataclass(frozen=True)
class ExportedNetwork:
    """A network as ONNX in fp32, its weights still the checkpoint's own.

    `golden` holds one input and the torch module's answer.
    """

    network: Network
    onnx: Path
    golden: Path


def export_all(networks: list[Network], store: Store, reporter: Reporter) -> list[ExportedNetwork]:
    """Exports what the store does not hold yet."""
    reporter.stage("export", len(networks))
    return [_export(network, store, reporter) for network in networks]


def export_key(network: Network) -> BuildKey:
    """What decides a network's graph: I/O signature, configuration, this package's source, the exporter's tools.

    Not its weights: a graph serves a model trained on, or with an adapter fused into it. Nor the profiles.
    """
    facts = {tool: version(tool) for tool in TOOLS} | dict(network.facts)
    facts["dims"] = json.dumps([dict(network.trace_dims), dict(network.limits)], sort_keys=True)
    facts["I/O signature"] = msgspec.json.encode([*network.spec.inputs, *network.spec.outputs]).decode()
    facts["hsexport"] = source_digest("export")
    return BuildKey("onnx", network.name, facts)


def golden_key(network: Network) -> BuildKey:
    """What decides a golden: the graph, the weights, and the extents it is taken at, which a profile may bound."""
    facts = dict(export_key(network).facts)
    facts["extents"] = json.dumps(network.check_dims, sort_keys=True)
    if network.weights is not None:
        facts["weights"] = network.weights.digest
    return BuildKey("golden", network.name, facts)


def _export(network: Network, store: Store, reporter: Reporter) -> ExportedNetwork:
    key = export_key(network)
    found = store.find(key)
    reporter.begin(network.name, "" if found else store.why_missing(key))
    entry = found or store.make(
        key, lambda folder: _trace(network, folder, reporter), lambda: reporter.wait(network.name)
    )
    if network.weights:
        network.weights.hashed(bytes_told(reporter, network.name, "hashed"))
    golden = golden_key(network)
    known = store.find(golden)
    answered = known or store.make(
        golden, lambda folder: _answer(network, folder, reporter), lambda: reporter.wait(network.name)
    )
    reporter.end(network.name, "kept from an earlier build" if found and known else "")
    return ExportedNetwork(network, entry / f"{network.name}.onnx", answered / GOLDEN)


def _trace(network: Network, folder: Path, reporter: Reporter) -> None:
    from hsexport.onnx.onnx_export import STEPS, export_onnx

    def told(step: str) -> None:
        reporter.advance(network.name, f"steps: {step}", STEPS.index(step), len(STEPS))

    export_onnx(network, folder, told)


def _answer(network: Network, folder: Path, reporter: Reporter) -> None:
    inputs, module = network.sample_inputs(), network.load(bytes_told(reporter, network.name, "read"))
    save_golden(folder / GOLDEN, inputs, reference_outputs(module, network.spec, inputs))
