"""The pack stage: engines, goldens and tokenizers into a bundle."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from hsengines.backend import Backend
from hsengines.build import BuildOptions
from hsexport import __version__
from hsexport.build.request import BuildRequest
from hsexport.build.stages.compile import CompiledEngine
from hsexport.build.stages.export import TOOLS
from hsexport.checkpoints.loading import load_tokenizer
from hsexport.networks.recipe import Recipe
from hsexport.progress import Reporter
from hsruntime.bundle.manifest import FORMAT_VERSION, EngineRecord, Manifest, ParityRecord
from hsruntime.bundle.reader import Bundle
from hsruntime.bundle.writer import write_bundle


@dataclass
class _Contents:
    """Paths in the bundle and where their bytes come from."""

    files: dict[str, Path | bytes] = field(default_factory=dict)
    engines: dict[str, EngineRecord] = field(default_factory=dict)


def pack(
    request: BuildRequest,
    recipe: Recipe,
    engines: list[CompiledEngine],
    parity: Sequence[ParityRecord],
    backend: Backend,
    options: BuildOptions,
    reporter: Reporter,
) -> Bundle:
    """Writes the bundle at the request's `out`, atomically."""
    contents = _Contents()
    for engine, measured in zip(engines, parity, strict=True):
        _add_engine(contents, engine, measured)
    for slot in recipe.facts.slots:
        tokenizer = load_tokenizer(recipe.pair.family.tokenizer(recipe.pair, slot))
        contents.files[slot.tokenizer] = tokenizer.backend_tokenizer.to_str().encode()
    reporter.stage("pack", len(contents.files))
    manifest = _manifest(recipe, contents.engines, backend, options)
    reporter.begin(str(request.out))
    return write_bundle(request.out, manifest, contents.files, lambda path, _: reporter.end(path))


def _add_engine(contents: _Contents, engine: CompiledEngine, parity: ParityRecord) -> None:
    name, folder = engine.name, "engines"
    file = f"{folder}/{engine.files.engine.name}"
    weights = [f"{folder}/{path.name}" for path in engine.files.weights]
    golden = f"goldens/{name}.npz"
    contents.files |= {file: engine.files.engine, golden: engine.graph.golden}
    contents.files |= dict(zip(weights, engine.files.weights, strict=True))
    contents.engines[name] = EngineRecord(
        file=file,
        weights=weights,
        spec=engine.graph.spec,
        build_key=engine.key,
        precision=engine.graph.precision,
        weight_format="unquantized",
        fp32_blocks=list(engine.graph.fp32_blocks),
        options=engine.options,
        audit=engine.audit,
        golden=golden,
        parity=parity,
    )


def _manifest(recipe: Recipe, engines: dict[str, EngineRecord], backend: Backend, options: BuildOptions) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        backend=backend.name,
        precision=options.precision,
        target=backend.target(options),
        tools={"hsexport": __version__, "builder": backend.version()} | {tool: version(tool) for tool in TOOLS},
        device=f"{platform.machine()} CPU, {os.cpu_count()} cores",
        facts=recipe.facts,
        engines=engines,
        files=[],
    )
