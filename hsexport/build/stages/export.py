"""The export stage: every network to ONNX, with its golden."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

from hsexport.build.stages.stage import GOLDEN, Job, Product, Run
from hsexport.build.store import BuildKey, source_digest
from hsexport.networks.network import Network, reference_outputs
from hsexport.progress import Reporter, bytes_told
from hsruntime.bundle.golden import save_golden

TOOLS = ("torch", "diffusers", "transformers", "onnx", "onnxscript")


def export_all(products: Sequence[Product], run: Run) -> None:
    """A graph in fp32, whose weights are still the checkpoint's own, and one input with the torch module's answer."""

    def jobs(product: Product) -> Iterator[Job]:
        network = product.network
        yield "onnx", export_key(network), lambda folder: _trace(network, folder, run.reporter)
        if network.weights:
            network.weights.hashed(bytes_told(run.reporter, network.name, "hashed"))
        yield "golden", golden_key(network), lambda folder: _answer(network, folder, run.reporter)

    run.stage("export", products, jobs)


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


def _trace(network: Network, folder: Path, reporter: Reporter) -> None:
    from hsexport.onnx.onnx_export import export_onnx

    export_onnx(network, folder, lambda step, *done: reporter.advance(network.name, f"steps: {step}", *done))


def _answer(network: Network, folder: Path, reporter: Reporter) -> None:
    inputs, module = network.sample_inputs(), network.load(bytes_told(reporter, network.name, "read"))
    save_golden(folder / GOLDEN, inputs, reference_outputs(module, network.spec, inputs))
