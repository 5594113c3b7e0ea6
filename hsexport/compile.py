"""The compile stage: ONNX to engines, by way of the store."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from hsengines.backend import Backend, BuildOptions, EngineFiles
from hsengines.key import BuildKey, file_digest
from hsengines.spec import EngineSpec
from hsengines.store import Store
from hsexport.export.stage import ExportedNetwork
from hsexport.progress import Reporter


@dataclass(frozen=True)
class CompiledEngine:
    """An engine's files in the store, and the golden to check it with."""

    spec: EngineSpec
    files: EngineFiles
    key: str
    golden: Path


def compile_all(
    exported: list[ExportedNetwork], backend: Backend, options: BuildOptions, store: Store, reporter: Reporter
) -> list[CompiledEngine]:
    """Compiles what the store does not hold yet."""
    reporter.stage("compile", len(exported))
    return [_compile(network, backend, options, store, reporter) for network in exported]


def engine_key(network: ExportedNetwork, backend: Backend, options: BuildOptions) -> BuildKey:
    """What decides an engine: graph, weights, profiles, the builder and its options."""
    facts = {
        "graph": file_digest(network.onnx),
        "profiles": json.dumps([asdict(p) for p in network.spec.profiles], sort_keys=True),
        "builder": backend.version(),
    } | asdict(options)
    weights = _weights_beside(network.onnx)
    if weights:
        facts["weights"] = file_digest(weights)
    return BuildKey(f"engine-{backend.name}", network.spec.name, facts)


def _compile(
    network: ExportedNetwork, backend: Backend, options: BuildOptions, store: Store, reporter: Reporter
) -> CompiledEngine:
    name = network.spec.name
    key = engine_key(network, backend, options)
    found = store.find(key)
    reporter.begin(name, "" if found else store.why_missing(key))

    def fill(folder: Path) -> None:
        (folder / "engine").mkdir()
        files = backend.build(network.onnx, network.spec, options, folder / "engine")
        (folder / "files.json").write_text(json.dumps([p.name for p in (files.engine, *files.weights)]))

    entry = found or store.make(key, fill)
    engine, *weights = (entry / "engine" / n for n in json.loads((entry / "files.json").read_text()))
    reporter.end(name, "kept from an earlier build" if found else "")
    return CompiledEngine(network.spec, EngineFiles(engine, tuple(weights)), key.digest, network.golden)


def _weights_beside(onnx: Path) -> Path | None:
    data = onnx.with_name(onnx.name + ".data")
    return data if data.is_file() else None
