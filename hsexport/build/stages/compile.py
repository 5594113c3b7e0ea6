"""The compile stage: graphs to engines, and the types that an engine computes in beside those its graph asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hsengines.build import NODE_SEPARATOR, BuildOptions, EngineFiles
from hsengines.errors import EngineBuildError
from hsexport.build.stages.stage import Job, Product, Run
from hsexport.build.store import BuildKey
from hsruntime.bundle.manifest import Audit

if TYPE_CHECKING:
    import onnx_ir as ir

FOLDER = "engine"
LOG = "builder.log"
THEIR_NAMES = {"float8e4m3fn": "fp8", "float4e2m1": "fp4"}
"""Of types that are stored and not computed with: ONNX's names, and what builders call them."""
PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Attention")
"""The operators whose type decides speed and error; what lies between them is fused into them at will."""


class Built(msgspec.Struct, frozen=True):
    """What is kept beside an engine: its file's name, those of its weights, and what was found of its types."""

    engine: str
    weights: list[str]
    audit: Audit


def compile_all(products: Sequence[Product], run: Run) -> None:
    """An engine. Raises EngineBuildError, whose hint says where the log lies."""

    def jobs(product: Product) -> Iterator[Job]:
        yield "engine", _key(product, run), lambda folder: _built(product, run, folder)

    run.stage("compile", products, jobs)


def engine_files(product: Product) -> tuple[Path, ...]:
    """The engine, then the files of its weights."""
    built = product.record("engine", Built)
    return tuple(product.entries["engine"] / FOLDER / name for name in (built.engine, *built.weights))


def _key(product: Product, run: Run) -> BuildKey:
    """What decides an engine: graph, weights, profiles, the builder and the options that reach it.

    The precision is the graph's own and needs no fact, but a rebuild that says "precision" is better understood than
    one that says "graph". An engine that keeps fp32 in every bundle is therefore not built again.
    """
    backend = run.backend
    facts = run.graph_digests(product) | {
        "precision": product.precision,
        "profiles": msgspec.json.encode(product.spec.profiles, order="sorted").decode(),
        "builder": backend.version(),
    }
    return BuildKey(f"engine-{backend.name}", product.name, facts | backend.key_facts(options_for(product, run)))


def options_for(product: Product, run: Run) -> BuildOptions:
    """What the builder is told of this network: of one without a transformer's weights, that they are fixed."""
    weights, options = product.network.weights, run.request.options
    return options if weights and weights.origins else options.of_fixed_weights()


def _built(product: Product, run: Run, folder: Path) -> Built:
    out = folder / FOLDER
    out.mkdir()

    def told(phase: str, done: int, total: int) -> None:
        run.reporter.advance(product.name, phase, done, total)

    try:
        files = run.backend.build(product.graph, product.spec, options_for(product, run), out, told)
        checked = audit(product, files)
    except EngineBuildError as err:
        raise _with_log(err, product, run) from err
    (folder / LOG).write_text(files.log)
    return Built(files.engine.name, [path.name for path in files.weights], checked)


def _with_log(err: EngineBuildError, product: Product, run: Run) -> EngineBuildError:
    """The error with its builder's log kept outside the unfinished entry, which goes."""
    if not err.log:
        return err
    logs = run.store.root / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    file = logs / f"{run.backend.name}-{product.name}.log"
    file.write_text(err.log)
    return EngineBuildError(err.message, f"{err.hint}{'; ' if err.hint else ''}the builder's log is {file}", err.log)


def audit(product: Product, files: EngineFiles) -> Audit:
    """What was found, which is what the graph asks for; nothing where the builder keeps the graph as it is.

    Raises EngineBuildError naming the first layer of another type: a builder that changes types does so silently.
    """
    if not files.layers:
        return {}
    import onnx_ir as ir

    model = ir.load(product.graph)
    quantised = {node.name or "": _quantised(node) for node in model.graph if node.op_type in PRODUCTS}
    answers = {node.name or "": [v.dtype.numpy().name for v in node.outputs if v.dtype] for node in model.graph}
    products = set(quantised)
    seen: dict[str, str] = {}
    seen_quantised: dict[str, str] = {}
    for layer in files.layers:
        nodes = layer.name.split(NODE_SEPARATOR)
        if products.isdisjoint(nodes):
            continue
        asked = {dtype for node in nodes for dtype in answers.get(node, ())}
        if other := [dtype for dtype in layer.dtypes if dtype not in asked]:
            raise EngineBuildError(
                f"engine '{product.name}', layer '{layer.name}' was built in {other[0]}, its graph asks for "
                f"{sorted(asked)[0]}",
                "the builder changed the precision by itself; please report it with the builder's version",
            )
        for node in nodes if layer.reads else ():
            if node in quantised and sorted(layer.reads) != quantised[node]:
                raise EngineBuildError(
                    f"engine '{product.name}', layer '{layer.name}' reads {' and '.join(layer.reads)}, its graph asks "
                    f"for {' and '.join(quantised[node]) or 'nothing quantised'}",
                    "the builder changed the weights by itself; please report it with the builder's version",
                )
            seen_quantised[node] = " and ".join(layer.reads)
        # A product with a bias is two layers of one node; the one that answers comes last.
        seen |= {node: layer.dtypes[0] for node in products.intersection(nodes) if layer.dtypes}
    if files.layers_of == "network":
        lost = {node for node, types in quantised.items() if types} - seen_quantised.keys()
        if lost:
            raise EngineBuildError(
                f"engine '{product.name}': the builder does not read '{min(lost)}' quantised", "please report it"
            )
    return {files.layers_of: dict(Counter([*seen.values(), *seen_quantised.values()]))} if seen else {}


def _quantised(node: ir.Node) -> list[str]:
    """The types of what a product reads quantised."""
    makers = [value.producer() for value in node.inputs if value is not None]
    stored = [maker.inputs[0] for maker in makers if maker and maker.op_type == "DequantizeLinear"]
    names = (value.dtype.name.lower() for value in stored if value is not None and value.dtype is not None)
    return sorted(THEIR_NAMES.get(name, name) for name in names)
