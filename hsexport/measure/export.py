#!/usr/bin/env python3
"""Ours beside a plain `torch.onnx.export` of the same module: peak memory, time and nodes at real widths, in one run.

Needs a pair: `scripts/random_pair --large sd3.5-large --small sd3.5-medium --layers 6 --text tiny --out DIR`. Each way
runs in a process of its own, since memory is counted by process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hsexport.measure.bench.hardware import hardware
from hsexport.measure.contact_sheet import write_report
from hsexport.measure.new_process import in_new_process


@dataclass(frozen=True)
class Way:
    """One way to a graph of large in bf16, its weights included."""

    name: str
    seconds: float
    peak_gb: float
    """The most memory its process held, torch itself included."""
    nodes: int


def ours(pair: tuple[str, str], out: Path) -> tuple[float, int]:
    """The build's stages export and optimise over large alone: golden, parity's input and all."""
    from hsexport.build.memory import return_what_is_freed
    from hsexport.build.recipe import BuildRequest, recipe_for
    from hsexport.build.stages.export import export_all
    from hsexport.build.stages.optimise import optimise_all
    from hsexport.build.store import Store
    from hsexport.families.sd3.networks import large_network
    from hsexport.onnx.graph_files import load_graph
    from hsexport.progress import Silent

    start = time.perf_counter()
    return_what_is_freed()
    request = BuildRequest(*pair, out=out / "bundle", cache=out)
    store = Store(out)
    exported = export_all([large_network(recipe_for(request))], store, Silent())
    (graph,) = optimise_all(exported, "tensorrt-rtx", "bf16", (), store, Silent())
    return time.perf_counter() - start, len(load_graph(graph.onnx).graph)


def plain(pair: tuple[str, str], out: Path) -> tuple[float, int]:
    """The same module with its weights loaded by diffusers, exported and saved as torch does it."""
    import torch
    from diffusers import SD3Transformer2DModel

    from hsexport.build.recipe import BuildRequest, recipe_for
    from hsexport.families.sd3.networks import large_network
    from hsexport.families.sd3.transformer import TokenTransformer
    from hsexport.onnx.onnx_export import OPSET, dynamic_shapes

    start = time.perf_counter()
    request = BuildRequest(*pair, out=out / "bundle", cache=out)
    recipe = recipe_for(request)
    network, bf16 = large_network(recipe), torch.bfloat16
    model = SD3Transformer2DModel.from_pretrained(recipe.pair.large.directory.transformer, torch_dtype=bf16)
    module = TokenTransformer(model, recipe.facts.large.positions, takes_cache=True).eval().to(bf16)
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
    program.save(str(out / "large.onnx"), external_data=True)
    return time.perf_counter() - start, len(program.model.graph)


def measured(name: str, way: Callable[[tuple[str, str], Path], tuple[float, int]], pair: tuple[str, str]) -> Way:
    """Runs one way in a process of its own, its products in a folder that goes with it."""
    with tempfile.TemporaryDirectory(dir=Path(pair[0]).parent) as folder:  # one disk, as a user's cache would be
        (seconds, nodes), peak = in_new_process(way, pair, Path(folder))
    return Way(name, seconds, peak / 1e9, nodes)


def main(
    pair: Annotated[Path, typer.Argument(help="folder of large/ and small/")],
    out: Annotated[Path | None, typer.Option("--json", help="also write the numbers here")] = None,
) -> None:
    """Measure both ways, ours first."""
    sources = str(pair / "large"), str(pair / "small")
    ways = [measured("hsexport", ours, sources), measured("torch.onnx.export", plain, sources)]
    table = Table("", "peak GB", "seconds", "nodes")
    for way in ways:
        table.add_row(way.name, f"{way.peak_gb:.2f}", f"{way.seconds:.0f}", f"{way.nodes:,}")
    first, second = ways
    Console().print(table)
    Console().print(
        f"plain over ours: {second.peak_gb / first.peak_gb:.2f} of the memory, "
        f"{second.seconds / first.seconds:.2f} of the time, {second.nodes / first.nodes:.2f} of the nodes"
    )
    if out:
        write_report(out, {"hardware": asdict(hardware(0)), "ways": [asdict(way) for way in ways]})


if __name__ == "__main__":
    typer.run(main)
