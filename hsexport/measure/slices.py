#!/usr/bin/env python3
"""Slices of SD3.5-Large at its real width, of more and more layers, built for TensorRT-RTX: the memory it takes.

No GPU is needed. Each build runs in a process of its own over random weights, which are written before and removed
afterwards; a slice that the memory at hand cannot hold, by what the one before took, ends the series.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from hsexport.measure.bench.hardware import hardware
from hsexport.measure.contact_sheet import write_report
from hsexport.measure.new_process import in_new_process, private_peak
from hsexport.plan.machine import available_memory
from hsexport.plan.stages import building_bytes
from random_pairs.pairs import make_pair
from random_pairs.shapes import SD35_LARGE, SD35_MEDIUM, PairShape

WORK = Path("build")
GB = 1e9
SERIES = (2, 6, 12, 20, 38)
"""Layers; SD3.5-Large has 38."""
COLUMNS = ("layers", "weights GB", "engine GB", "private GB", "planned GB", "over weights", "resident GB", "build s")
SHAPE = PairShape("slices", SD35_LARGE, SD35_MEDIUM)


@dataclass(frozen=True)
class Slice:
    """One build of large's first layers, both profiles."""

    layers: int
    weights_gb: float
    engine_gb: float
    private_gb: float
    """The most memory its process held that the system cannot take back, Python and torch included."""
    planned_gb: float
    """What `hsexport plan` says of it."""
    resident_gb: float
    """The same with the pages of mapped files, the weights' own among them."""
    seconds: float

    @property
    def copies(self) -> float:
        """Memory over weights."""
        return self.private_gb / self.weights_gb


def build_large(root: Path, precision: str, arch: int) -> tuple[float, int, int, int]:
    """Seconds of the build, bytes of weights, of the engine, and of private memory."""
    from hsengines.backend import get_backend
    from hsengines.build import build_options
    from hsexport.build.memory import return_what_is_freed
    from hsexport.build.recipe import BuildRequest, recipe_for
    from hsexport.build.stages.compile import compile_all
    from hsexport.build.stages.export import export_all
    from hsexport.build.stages.optimise import optimise_all
    from hsexport.build.store import Store
    from hsexport.families.sd3.networks import large_network
    from hsexport.progress import Silent

    return_what_is_freed()
    options = build_options("tensorrt-rtx", precision=precision, architectures=(arch,))
    large, small = str(root / "large"), str(root / "small")
    request = BuildRequest(
        large, small, root / "bundle", root / "cache", backend="tensorrt-rtx", options=options, max_batch=1
    )
    store, backend = Store(request.cache), get_backend(request.backend)
    exported = export_all([large_network(recipe_for(request))], store, Silent())
    graphs = optimise_all(exported, backend.name, precision, (), store, Silent())
    start = time.perf_counter()
    with private_peak() as peak:
        (engine,) = compile_all(graphs, backend, options, store, Silent())
    return time.perf_counter() - start, weights_in(graphs[0].onnx), engine.files.engine.stat().st_size, peak[0]


def weights_in(onnx: Path) -> int:
    """Bytes of the weights that a graph has, wherever they lie."""
    from hsexport.onnx.graph_files import load_graph

    values = load_graph(onnx).graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def slice_of(layers: int, precision: str, arch: int) -> Slice:
    """Writes a pair of so many layers, builds its large, and removes both."""
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        root = Path(folder) / "pair"
        make_pair(root, SHAPE.cut(layers), torch.bfloat16, lambda _: None)
        (seconds, weights, engine, private), resident = in_new_process(build_large, root, precision, arch)
    return Slice(
        layers=layers,
        weights_gb=weights / GB,
        engine_gb=engine / GB,
        private_gb=private / GB,
        planned_gb=building_bytes(weights, "tensorrt-rtx") / GB,
        resident_gb=resident / GB,
        seconds=seconds,
    )


def main(
    layers: Annotated[list[int] | None, typer.Option(min=2, help="how many; repeat it, fewest first")] = None,
    precision: str = "bf16",
    arch: Annotated[int, typer.Option(help="compute capability to build for")] = 89,
    out: Annotated[Path | None, typer.Option("--json", help="also write the numbers here")] = None,
) -> None:
    """Build slices until one is too large for this machine."""
    built: list[Slice] = []
    ended = ""
    for count in layers or SERIES:
        free = available_memory() / GB
        if built and (needed := built[-1].private_gb / built[-1].layers * count) > free:
            ended = f"{count} layers would need {needed:.1f} GB of memory, {free:.1f} are available"
            break
        Console(stderr=True).print(f"{count} layers")
        try:
            built.append(slice_of(count, precision, arch))
        except BrokenProcessPool:
            ended = f"the build of {count} layers was killed, as happens for want of memory"
            break
    table = Table(*COLUMNS)
    for row in built:
        sizes = row.weights_gb, row.engine_gb, row.private_gb, row.planned_gb
        numbers = *sizes, row.copies, row.resident_gb, row.seconds
        table.add_row(str(row.layers), *(f"{number:.2f}" for number in numbers))
    Console().print(table)
    Console().print(ended or "all were built")
    if out:
        rows = [asdict(row) | {"copies": row.copies} for row in built]
        write_report(out, {"hardware": asdict(hardware(0)), "precision": precision, "slices": rows, "ended": ended})


if __name__ == "__main__":
    typer.run(main)
