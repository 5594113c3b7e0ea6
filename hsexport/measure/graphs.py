"""Large's graph at real widths: beside a plain `torch.onnx.export`, cut into slices, and by its number of layers.

Each way runs in a process of its own, since memory is counted by process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from hsengines.weights import UNQUANTIZED
from hsexport.measure.blocks import PATH, Measured, measured_on, measurement, table
from hsexport.measure.processes import ProcessEnded, in_new_process, private_peak, random_pair
from hsexport.plan import measured
from hsexport.plan.machine import available_memory
from hsexport.plan.stages import building_bytes

if TYPE_CHECKING:
    from hsexport.build.stages.stage import Product, Run
    from hsexport.networks.network import Network

WORK = Path("build")
GB = 1e9
SERIES = (2, 6, 12, 20, 38)  # layers; SD3.5-Large has 38
FEW, MANY = 2, 12  # layers of a narrow pair


def network_at(
    pair: Path,
    cache: Path,
    precision: str = "bf16",
    arch: int = 89,
    network: str = "large",
    weights: str = UNQUANTIZED,
    calibration: Path | None = None,
) -> tuple[Run, list[Product]]:
    """A build for TensorRT-RTX of one network alone, before its first stage."""
    from hsengines.build import build_options
    from hsexport.build.memory import return_what_is_freed
    from hsexport.build.recipe import recipe_for
    from hsexport.build.request import BuildRequest
    from hsexport.build.stages.stage import Run
    from hsexport.progress import Reporter

    return_what_is_freed()
    options = build_options("tensorrt-rtx", precision=precision, architectures=(arch,), weights=weights)
    asked: dict[str, Any] = {"backend": "tensorrt-rtx", "options": options, "max_batch": 1}
    if calibration:
        asked["calibration"] = calibration
    request = BuildRequest(str(pair / "large"), str(pair / "small"), cache / "bundle", cache, **asked)
    run = Run(request, Reporter())
    return run, run.products([each for each in recipe_for(request).networks() if each.name == network])


def exported(pair: Path, cache: Path) -> tuple[int, int]:
    """Weights of large, and bytes of its graph without them."""
    from hsexport.build.stages.export import export_all
    from hsexport.plan.networks import resident_weights

    run, products = network_at(pair, cache)
    export_all(products, run)
    return len(resident_weights(products[0].network, run.request)), products[0].onnx.stat().st_size


def ours(pair: Path, cache: Path) -> tuple[float, int]:
    """Seconds and nodes of the stages export and optimise: golden, parity's input and all."""
    from hsexport.build.stages.export import export_all
    from hsexport.build.stages.optimise import optimise_all
    from hsexport.onnx.graph_files import load_graph

    start = perf_counter()
    run, products = network_at(pair, cache)
    export_all(products, run)
    optimise_all(products, run)
    return perf_counter() - start, len(load_graph(products[0].graph).graph)


def plain(pair: Path, cache: Path) -> tuple[float, int]:
    """The same of that module with its weights in memory, exported and saved as torch does it."""
    import torch

    from hsexport.onnx.onnx_export import OPSET, dynamic_shapes

    start = perf_counter()
    network: Network = network_at(pair, cache)[1][0].network
    assert network.weights is not None
    bf16, module = torch.bfloat16, network.skeleton().eval()
    numbers = ((name, np.asarray(weight.read(), np.float32)) for name, weight in network.weights.items())
    module.load_state_dict({name: torch.from_numpy(array).to(bf16) for name, array in numbers}, assign=True)
    inputs = network.sample_inputs(dims=network.trace_dims)
    tensors = [torch.from_numpy(inputs[tensor.name]) for tensor in network.spec.inputs]
    program = torch.onnx.export(
        module,
        tuple(tensor.to(bf16) if tensor.is_floating_point() else tensor for tensor in tensors),
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=dynamic_shapes(network, module),
    )
    assert program is not None
    program.save(str(cache / "large.onnx"), external_data=True)
    return perf_counter() - start, len(program.model.graph)


def export_block(report: Measured) -> str:
    """Both ways, and ours over the plain one."""
    first, second = report["ways"]
    columns = ": `{name}` | peak memory, GB: {peak_gb:.2f} | time, s: {seconds:.0f} | nodes: {nodes}"
    told = f"\n`{first['name']}` takes {first['peak_gb'] / second['peak_gb']:.2f} of the memory.\n"
    return table(columns, report["ways"]) + told + measured_on(report)


@measurement(export_block)
@click.argument("pair", type=PATH)
def export(pair: Path) -> dict[str, Any]:
    """Export large of PAIR, `scripts/random_pair --layers 6 --text tiny` writes one, our way and torch's own."""
    ways: dict[str, Callable[..., tuple[float, int]]] = {"hsexport": ours, "torch.onnx.export": plain}
    rows = []
    for name, way in ways.items():
        with tempfile.TemporaryDirectory(dir=pair) as folder:  # one disk, as a user's cache would be
            (seconds, nodes), peak = in_new_process(way, pair, Path(folder))
        rows.append({"name": name, "seconds": seconds, "peak_gb": peak / GB, "nodes": nodes})
    return {"ways": rows}


def build_large(pair: Path, precision: str, arch: int) -> tuple[float, int, int, int]:
    """Seconds of the build, bytes of weights, of the engine, and of private memory."""
    from hsexport.build.stages.compile import compile_all, engine_files
    from hsexport.build.stages.export import export_all
    from hsexport.build.stages.optimise import optimise_all

    run, products = network_at(pair, pair / "cache", precision, arch)
    export_all(products, run)
    optimise_all(products, run)
    start = perf_counter()
    with private_peak() as peak:
        compile_all(products, run)
    seconds, engine = perf_counter() - start, engine_files(products[0])[0].stat().st_size
    return seconds, weight_bytes(products[0]), engine, peak[0]


def weight_bytes(product: Product) -> int:
    """Of a graph as its backend takes it."""
    from hsexport.onnx.graph_files import load_graph

    values = load_graph(product.graph).graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def slice_of(layers: int, precision: str, arch: int) -> dict[str, Any]:
    """Builds large's first layers, both profiles; the pair that they come from is written and removed.

    `private_gb` is the most memory its process held that the system cannot take back, Python and torch included;
    `resident_gb` has the pages of mapped files, too, the weights' own among them.
    """
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        pair = random_pair(Path(folder) / "pair", "--layers", str(layers), "--text", "tiny")
        (seconds, weights, engine, private), resident = in_new_process(build_large, pair, precision, arch)
    planned = building_bytes(weights, "tensorrt-rtx")
    sizes = {"weights": weights, "engine": engine, "private": private, "planned": planned, "resident": resident}
    figures = {f"{name}_gb": size / GB for name, size in sizes.items()}
    return {"layers": layers, **figures, "seconds": seconds, "copies": private / weights}


@measurement(
    "layers: {layers} | weights, GB: {weights_gb:.2f} | engine, GB: {engine_gb:.2f} | private, GB: {private_gb:.2f}"
    " | `plan` says: {planned_gb:.2f} | over the weights: {copies:.2f} | resident, GB: {resident_gb:.2f}"
    " | build, s: {seconds:.0f}"
)
@click.option("--layers", multiple=True, default=SERIES, type=click.IntRange(2), help="repeat it, fewest first")
@click.option("--precision", default="bf16")
@click.option("--arch", default=89, help="compute capability to build for")
def slices(layers: tuple[int, ...], precision: str, arch: int) -> dict[str, Any]:
    """Build more and more of SD3.5-Large's layers, of random weights, until they are too many for this machine.

    No GPU is needed. What the memory at hand cannot hold, by what the slice before took, ends the series.
    """
    built: list[dict[str, Any]] = []
    ended = "all were built"
    for count in layers:
        free = available_memory() / GB
        if built and (needed := built[-1]["private_gb"] / built[-1]["layers"] * count) > free:
            ended = f"{count} layers would need {needed:.1f} GB of memory, {free:.1f} are available"
            break
        click.echo(f"{count} layers", err=True)
        try:
            built.append(slice_of(count, precision, arch))
        except ProcessEnded:
            ended = f"the build of {count} layers was killed, as happens for want of memory"
            break
    click.echo(ended, err=True)
    return {"precision": precision, "slices": built, "ended": ended}


def runner() -> None:
    """What a process imports that could run a bundle."""
    for name in ("onnxruntime", "tokenizers", "hsruntime.session"):
        __import__(name)


def of_layers(layers: int) -> tuple[int, int, int]:
    """Weights, bytes of the graph and the process's peak at so many layers of a narrow pair."""
    with tempfile.TemporaryDirectory() as folder:
        narrow = ("--large", "narrow", "--small", "narrow", "--text", "tiny", "--layers", str(layers))
        pair = random_pair(Path(folder) / "pair", *narrow)
        (weights, graph), peak = in_new_process(exported, pair, Path(folder) / "cache")
    return weights, graph, peak


@measurement(": `{name}` | measured: {measured:,.0f} | written down: {written:,}")
def plan() -> dict[str, Any]:
    """Measure what `hsexport plan` cannot count (hsexport/plan/measured.py), in some minutes and 2 GB of disk.

    The slope between few and many layers is what one weight costs.
    """
    few, few_graph, few_peak = of_layers(FEW)
    many, many_graph, many_peak = of_layers(MANY)
    slope = (many_peak - few_peak) / (many - few)
    found = {
        "EXPORT_PROCESS": few_peak - slope * few,
        "EXPORT_PER_TENSOR": slope,
        "GRAPH_PER_TENSOR": (many_graph - few_graph) / (many - few),
        "RUNNER_PROCESS": in_new_process(runner)[1],
    }
    rows = [{"name": name, "measured": value, "written": getattr(measured, name)} for name, value in found.items()]
    return {"constants": rows}
