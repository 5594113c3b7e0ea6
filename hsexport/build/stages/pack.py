"""The pack stage: engines, goldens and tokenizers into a bundle."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
from msgspec import structs

from hsengines.traits import traits_of
from hsengines.weights import UNQUANTIZED
from hsexport import __version__
from hsexport.build.recipe import changeable_of
from hsexport.build.stages.compile import Built, engine_files, options_for
from hsexport.build.stages.export import TOOLS
from hsexport.build.stages.optimise import GraphReport
from hsexport.build.stages.stage import Product, Run
from hsexport.checkpoints.tokenizers import load_tokenizer
from hsexport.families.recipe import Recipe
from hsruntime.adapters.changeable import Changeable, EngineWeights, engines_of, path_of
from hsruntime.bundle.manifest import FORMAT_VERSION, EngineRecord, Manifest, ParityRecord
from hsruntime.bundle.reader import Bundle
from hsruntime.bundle.writer import write_bundle


def pack(products: Sequence[Product], run: Run, recipe: Recipe) -> Bundle:
    """Writes the bundle at the request's `out`, atomically."""
    files: dict[str, Path | bytes] = {}
    for product in products:
        files |= {_in_bundle(path): path for path in engine_files(product)}
        files[_golden(product)] = product.golden
    for slot in recipe.facts.slots:
        tokenizer = load_tokenizer(recipe.pair.family.tokenizer(recipe.pair, slot))
        files[slot.tokenizer] = tokenizer.backend_tokenizer.to_str().encode()
    for part, record in _changeable(products, run, recipe).items():
        files[path_of(part)] = msgspec.json.format(msgspec.json.encode(record, order="deterministic"), indent=1)
    run.reporter.stage("pack", len(files))
    run.reporter.begin(str(run.request.out))
    manifest = _manifest(products, run, recipe)
    return write_bundle(run.request.out, manifest, files, lambda path, _: run.reporter.end(path))


def _in_bundle(path: Path) -> str:
    return f"engines/{path.name}"


def _golden(product: Product) -> str:
    return f"goldens/{product.name}.npz"


def _changeable(products: Sequence[Product], run: Run, recipe: Recipe) -> dict[str, Changeable]:
    """What adapters may change of each member and each text encoder at run time.

    Nothing where engines hold their weights for good, or hold them quantised.
    """
    if traits_of(run.request.backend).resident_weights and not run.request.options.takes_weights:
        return {}
    found = {}
    for part in [member.role for member in recipe.pair.members] + [slot.engine for slot in recipe.facts.slots]:
        ours = [product for product in products if product.name in engines_of(part)]
        engines = {product.name: weights for product in ours if (weights := _weights_of(product))}
        if engines and not any(product.weights != UNQUANTIZED for product in ours):
            found[part] = structs.replace(changeable_of(recipe.pair, recipe.facts.slots, part), engines=engines)
    return found


def _weights_of(product: Product) -> EngineWeights | None:
    """The initialisers, in the file beside the engine that holds them as the graph's own does."""
    initialisers = product.record("graph", GraphReport).initialisers
    files = [path for path in engine_files(product)[1:] if path.suffix in (".data", ".weights")]
    return EngineWeights(file=_in_bundle(files[0]), initialisers=initialisers) if files and initialisers else None


def _engine(product: Product, run: Run) -> EngineRecord:
    engine, *weights = map(_in_bundle, engine_files(product))
    report = product.record("graph", GraphReport)
    return EngineRecord(
        file=engine,
        weights=weights,
        spec=product.spec,
        build_key=product.entries["engine"].name,
        precision=product.precision,
        weight_format=product.weights,
        products=report.products,
        other_weights=report.other_weights,
        fp32_blocks=report.fp32_blocks,
        options=run.backend.key_facts(options_for(product, run)),
        audit=product.record("engine", Built).audit,
        golden=_golden(product),
        parity=product.record("parity", ParityRecord),
    )


def _manifest(products: Sequence[Product], run: Run, recipe: Recipe) -> Manifest:
    backend, options = run.backend, run.request.options
    return Manifest(
        format_version=FORMAT_VERSION,
        backend=backend.name,
        precision=options.precision,
        target=backend.target(options),
        tools={"hsexport": __version__, "builder": backend.version()} | {tool: version(tool) for tool in TOOLS},
        device=f"{platform.machine()} CPU, {os.cpu_count()} cores",
        facts=recipe.facts,
        engines={product.name: _engine(product, run) for product in products},
        files=[],
    )
