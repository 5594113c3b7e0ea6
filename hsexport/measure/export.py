"""Ours beside a plain `torch.onnx.export` of the same module: peak memory, time and nodes at real widths, in one run.

Needs a pair: `scripts/random_pair --layers 6 --text tiny --out DIR`. Each way runs in a process of its own, since
memory is counted by process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from hsexport.measure.blocks import PATH, Measured, finish, json_option, measured_on, table
from hsexport.measure.processes import in_new_process

if TYPE_CHECKING:
    from hsexport.families.recipe import Recipe
    from hsexport.networks.network import Network

COLUMNS = ": `{name}` | peak memory, GB: {peak_gb:.2f} | time, s: {seconds:.0f} | nodes: {nodes}"
Way = Callable[[tuple[str, str], Path], tuple[float, int]]
"""Makes a graph of large in bf16, its weights included; answers with seconds and nodes."""


def large_of(recipe: Recipe) -> Network:
    """The large transformer among a recipe's networks."""
    return next(network for network in recipe.networks() if network.name == "large")


def ours(pair: tuple[str, str], out: Path) -> tuple[float, int]:
    """The build's stages export and optimise over large alone: golden, parity's input and all."""
    from hsengines.build import build_options
    from hsexport.build.memory import return_what_is_freed
    from hsexport.build.recipe import recipe_for
    from hsexport.build.request import BuildRequest
    from hsexport.build.stages.export import export_all
    from hsexport.build.stages.optimise import optimise_all
    from hsexport.build.stages.stage import Run
    from hsexport.onnx.graph_files import load_graph
    from hsexport.progress import Silent

    start = perf_counter()
    return_what_is_freed()
    options = build_options("tensorrt-rtx", precision="bf16")
    request = BuildRequest(*pair, out=out / "bundle", cache=out, backend="tensorrt-rtx", options=options)
    run = Run(request, Silent())
    (product,) = products = run.products([large_of(recipe_for(request))])
    export_all(products, run)
    optimise_all(products, run)
    return perf_counter() - start, len(load_graph(product.graph).graph)


def plain(pair: tuple[str, str], out: Path) -> tuple[float, int]:
    """The same module with its weights in memory, exported and saved as torch does it."""
    import torch

    from hsexport.build.recipe import recipe_for
    from hsexport.build.request import BuildRequest
    from hsexport.onnx.onnx_export import OPSET, dynamic_shapes

    start = perf_counter()
    network, bf16 = large_of(recipe_for(BuildRequest(*pair, out=out / "bundle", cache=out))), torch.bfloat16
    assert network.weights is not None
    module = network.skeleton().eval()
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
    program.save(str(out / "large.onnx"), external_data=True)
    return perf_counter() - start, len(program.model.graph)


def measured(name: str, way: Way, pair: Path) -> dict[str, Any]:
    """Runs one way in a process of its own, its products in a folder that goes with it."""
    sources = str(pair / "large"), str(pair / "small")
    with tempfile.TemporaryDirectory(dir=pair) as folder:  # one disk, as a user's cache would be
        (seconds, nodes), peak = in_new_process(way, sources, Path(folder))
    return {"name": name, "seconds": seconds, "peak_gb": peak / 1e9, "nodes": nodes}


def block(report: Measured) -> str:
    """Both ways, and ours over the plain one."""
    first, second = report["ways"]
    told = f"\n`{first['name']}` takes {first['peak_gb'] / second['peak_gb']:.2f} of the memory.\n"
    return table(COLUMNS, report["ways"]) + told + measured_on(report)


@click.command()
@click.argument("pair", type=PATH)
@json_option
def main(pair: Path, json_file: Path | None) -> None:
    """Measure both ways on PAIR, a folder of large and small, ours first."""
    finish(block, json_file, ways=[measured("hsexport", ours, pair), measured("torch.onnx.export", plain, pair)])
