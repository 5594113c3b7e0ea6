"""Networks at real width with quantised weights, built for TensorRT-RTX without a GPU: what is asked for, and bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from hsengines.weights import FORMATS, UNQUANTIZED
from hsexport.measure.blocks import measurement
from hsexport.measure.graphs import GB, WORK, network_at, weight_bytes
from hsexport.measure.processes import in_new_process, private_peak, random_pair

if TYPE_CHECKING:
    from hsexport.build.stages.stage import Product

BUILT = (
    *((UNQUANTIZED, 89), ("int8", 86), ("int8-full", 86)),
    *(("int4", 86), ("int4", 89), ("int4", 120), ("fp8", 89), ("fp8", 120), ("nvfp4", 120)),
)
"""Formats, and the compute capabilities that they are built for."""
T5 = "text_encoder_3"
"""SD3's largest network of text; cut to two layers, of a few tokens' vocabulary."""


def calibrated(product: Product, file: Path) -> Path:
    """A calibration of one network by its golden: one random input, which serves to build and to nothing else."""
    from hsengines.files import replace_file
    from hsengines.ort.cpu import run_graph
    from hsexport.build.calibration import calibration_bytes
    from hsexport.measure.calibrate import Heard
    from hsexport.onnx.graph_files import load_graph, save_graph
    from hsexport.onnx.passes.expose_ranges import ExposeRanges
    from hsexport.onnx.passes.graph_pass import apply
    from hsexport.onnx.passes.ort_operators import OrtOperators
    from hsexport.onnx.weights import attach_weights
    from hsruntime.bundle.golden import load_golden

    model, ranges = load_graph(product.onnx), ExposeRanges()
    attach_weights(model, product.network.weights)
    apply(model, OrtOperators(), ranges)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        save_graph(model, Path(folder) / "graph.onnx")
        found = run_graph(Path(folder) / "graph.onnx", load_golden(product.golden)[0])
    heard = Heard({})
    heard.weights[product.name] = ranges.weights
    heard.take(product.name, {}, found)
    replace_file(file, calibration_bytes(heard.tensors, {"members": {}}))
    return file


def build_in(pair: Path, network: str, weights: str, arch: int) -> dict[str, Any]:
    """One network in one format: what came of it."""
    from hsexport.build.stages.compile import Built, compile_all, engine_files
    from hsexport.build.stages.export import export_all
    from hsexport.build.stages.optimise import optimise_all

    cache = pair / "cache"
    run, products = network_at(pair, cache, network=network)
    export_all(products, run)
    kind = FORMATS.get(weights)
    file = calibrated(products[0], cache / f"{network}.calibration") if kind and kind.activations else None
    run, products = network_at(pair, cache, "bf16", arch, network, weights, file)
    start = perf_counter()
    export_all(products, run)
    optimise_all(products, run)
    with private_peak() as peak:
        compile_all(products, run)
    engine, ideal = engine_files(products[0])[0].stat().st_size, weight_bytes(products[0])
    audit = products[0].record("engine", Built).audit["network"]
    return {
        "network": network,
        "weights": weights,
        "arch": arch,
        "ideal_gb": ideal / GB,
        "engine_gb": engine / GB,
        "over_ideal": engine / ideal,
        "private_gb": peak[0] / GB,
        "seconds": perf_counter() - start,
        "products": ", ".join(f"{count} {dtype}" for dtype, count in audit.items()),
    }


@measurement(
    "network: {network}, {layers} layers | weights: {weights} | sm: {arch} | weights, GB: {ideal_gb:.3f}"
    " | engine, GB: {engine_gb:.3f} | over the weights: {over_ideal:.2f} | private, GB: {private_gb:.2f}"
    " | graph and build, s: {seconds:.0f} | products and what they read: {products}"
)
@click.option("--layers", multiple=True, default=(2, 6), type=click.IntRange(2), help="of SD3.5-Large; repeat it")
def formats(layers: tuple[int, ...]) -> dict[str, Any]:
    """Build slices of SD3.5-Large and two layers of T5-XXL, of random weights, in every format. No GPU is needed."""
    rows = []
    WORK.mkdir(exist_ok=True)
    for count in layers:
        with tempfile.TemporaryDirectory(dir=WORK) as folder:
            pair = random_pair(Path(folder) / "pair", "--layers", str(count), "--text", "tiny")
            for network in ("large", T5) if count == min(layers) else ("large",):
                for weights, arch in BUILT:
                    click.echo(f"{count} layers: {network} in {weights} for sm_{arch}", err=True)
                    row, _ = in_new_process(build_in, pair, network, weights, arch)
                    rows.append({"layers": count if network == "large" else 2, **row})
    return {"slices": rows}
