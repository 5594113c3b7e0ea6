"""Slices of SD3.5-Large at its real width, of more and more layers, built for TensorRT-RTX: the memory it takes.

No GPU is needed. Each build runs in a process of its own over random weights, which are written before and removed
afterwards; a slice that the memory at hand cannot hold, by what the one before took, ends the series.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from hsexport.measure.blocks import Measured, finish, json_option, measured_on, table
from hsexport.measure.export import large_of
from hsexport.measure.processes import ProcessEnded, in_new_process, private_peak, random_pair
from hsexport.plan.machine import available_memory
from hsexport.plan.stages import building_bytes

WORK = Path("build")
GB = 1e9
SERIES = (2, 6, 12, 20, 38)
"""Layers; SD3.5-Large has 38."""
COLUMNS = (
    "layers: {layers} | weights, GB: {weights_gb:.2f} | engine, GB: {engine_gb:.2f}"
    " | private, GB: {private_gb:.2f} | `plan` says: {planned_gb:.2f} | over the weights: {copies:.2f}"
    " | resident, GB: {resident_gb:.2f} | build, s: {seconds:.0f}"
)


def build_large(root: Path, precision: str, arch: int) -> tuple[float, int, int, int]:
    """Seconds of the build, bytes of weights, of the engine, and of private memory."""
    from hsengines.build import build_options
    from hsexport.build.memory import return_what_is_freed
    from hsexport.build.recipe import recipe_for
    from hsexport.build.request import BuildRequest
    from hsexport.build.stages.compile import compile_all, engine_files
    from hsexport.build.stages.export import export_all
    from hsexport.build.stages.optimise import optimise_all
    from hsexport.build.stages.stage import Run
    from hsexport.progress import Silent

    return_what_is_freed()
    options = build_options("tensorrt-rtx", precision=precision, architectures=(arch,))
    asked: dict[str, Any] = {"backend": "tensorrt-rtx", "options": options, "max_batch": 1}
    request = BuildRequest(str(root / "large"), str(root / "small"), root / "bundle", root / "cache", **asked)
    run = Run(request, Silent())
    (product,) = products = run.products([large_of(recipe_for(request))])
    export_all(products, run)
    optimise_all(products, run)
    start = perf_counter()
    with private_peak() as peak:
        compile_all(products, run)
    seconds = perf_counter() - start
    return seconds, weights_in(product.graph), engine_files(product)[0].stat().st_size, peak[0]


def weights_in(onnx: Path) -> int:
    """Bytes of the weights that a graph has, wherever they lie."""
    from hsexport.onnx.graph_files import load_graph

    values = load_graph(onnx).graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def slice_of(layers: int, precision: str, arch: int) -> dict[str, Any]:
    """Builds large's first layers, both profiles; the pair that they come from is written and removed.

    `private_gb` is the most memory its process held that the system cannot take back, Python and torch included;
    `resident_gb` has the pages of mapped files, too, the weights' own among them.
    """
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        root = Path(folder) / "pair"
        random_pair(root, "--layers", str(layers), "--text", "tiny")
        (seconds, weights, engine, private), resident = in_new_process(build_large, root, precision, arch)
    planned = building_bytes(weights, "tensorrt-rtx")
    sizes = {"weights": weights, "engine": engine, "private": private, "planned": planned, "resident": resident}
    figures = {f"{name}_gb": size / GB for name, size in sizes.items()}
    return {"layers": layers, **figures, "seconds": seconds, "copies": private / weights}


def block(report: Measured) -> str:
    """A row a slice."""
    return table(COLUMNS, report["slices"]) + measured_on(report)


@click.command()
@click.option("--layers", multiple=True, default=SERIES, type=click.IntRange(2), help="repeat it, fewest first")
@click.option("--precision", default="bf16")
@click.option("--arch", default=89, help="compute capability to build for")
@json_option
def main(layers: tuple[int, ...], precision: str, arch: int, json_file: Path | None) -> None:
    """Build slices until one is too large for this machine."""
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
    finish(block, json_file, precision=precision, slices=built, ended=ended)
    click.echo(ended)
