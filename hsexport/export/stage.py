"""The export stage: every network to ONNX with its golden, by way of the store."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from hsengines.key import BuildKey
from hsengines.store import Store
from hsexport.network import Network, reference_outputs
from hsexport.pair.shards import weights_digest
from hsexport.progress import Reporter
from hsexport.source_digest import source_digest
from hsruntime.golden import save_golden

TOOLS = ("torch", "diffusers", "transformers", "onnx", "onnxscript")


@dataclass(frozen=True)
class ExportedNetwork:
    """A network as ONNX in fp32: `golden` holds one input and the torch module's answer."""

    network: Network
    onnx: Path
    golden: Path


def export_all(networks: list[Network], store: Store, reporter: Reporter) -> list[ExportedNetwork]:
    """Exports what the store does not hold yet."""
    reporter.stage("export", len(networks))
    return [_export(network, store, reporter) for network in networks]


def export_key(network: Network) -> BuildKey:
    """What decides a network's ONNX: its outside, its weights, this package's source, the exporter's tools."""
    facts = {tool: version(tool) for tool in TOOLS}
    facts |= network.facts
    # Not the profiles: a graph serves any of them; all that they decide is the extents the golden is taken at.
    extents = [dict(network.trace_dims), network.check_dims, dict(network.limits)]
    facts["dims"] = json.dumps(extents, sort_keys=True)
    facts["outside"] = json.dumps([asdict(t) for t in (*network.spec.inputs, *network.spec.outputs)], sort_keys=True)
    facts["hsexport"] = source_digest("export")
    if network.weights is not None:
        facts["weights"] = weights_digest(network.weights)
        facts["config"] = (network.weights / "config.json").read_text(encoding="utf-8")
    return BuildKey("onnx", network.name, facts)


def _export(network: Network, store: Store, reporter: Reporter) -> ExportedNetwork:
    key = export_key(network)
    found = store.find(key)
    reporter.begin(network.name, "" if found else store.why_missing(key))
    entry = found or store.make(key, lambda folder: _fill(network, folder), lambda: reporter.wait(network.name))
    reporter.end(network.name, "kept from an earlier build" if found else "")
    return ExportedNetwork(network, entry / f"{network.name}.onnx", entry / "golden.npz")


def _fill(network: Network, folder: Path) -> None:
    from hsexport.export.onnx_export import export_onnx

    module = network.load()
    export_onnx(network, module, folder)
    inputs = network.sample_inputs()
    save_golden(folder / "golden.npz", inputs, reference_outputs(module, network.spec, inputs))
