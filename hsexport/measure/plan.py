"""Measures what `hsexport plan` cannot count (hsexport/plan/measured.py); takes some minutes and 2 GB of disk."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import click

from hsexport.measure.blocks import Measured, finish, json_option, measured_on, table
from hsexport.measure.export import large_of
from hsexport.measure.processes import in_new_process, random_pair
from hsexport.plan import measured

FEW, MANY = 2, 12  # layers


def exported(root: Path) -> tuple[int, int]:
    """(weights, bytes of the graph) of exporting the large of the pair in `root`."""
    from hsexport.build.memory import return_what_is_freed
    from hsexport.build.recipe import recipe_for
    from hsexport.build.request import BuildRequest
    from hsexport.build.stages.export import export_all
    from hsexport.build.stages.stage import Run
    from hsexport.plan.networks import resident_weights
    from hsexport.progress import Silent

    return_what_is_freed()
    request = BuildRequest(str(root / "large"), str(root / "small"), root / "bundle", root / "cache")
    network = large_of(recipe_for(request))
    run = Run(request, Silent())
    (product,) = products = run.products([network])
    export_all(products, run)
    return len(resident_weights(network, request)), product.onnx.stat().st_size


def runner() -> None:
    """What a process imports that could run a bundle."""
    for name in ("onnxruntime", "tokenizers", "hsruntime.session"):
        __import__(name)


def of_layers(layers: int) -> tuple[int, int, int]:
    """Weights, bytes of the graph and the process's peak at so many layers of a narrow pair."""
    with TemporaryDirectory() as folder:
        narrow = ("--large", "narrow", "--small", "narrow", "--text", "tiny", "--layers", str(layers))
        random_pair(Path(folder) / "pair", *narrow)
        (weights, graph), peak = in_new_process(exported, Path(folder) / "pair")
    return weights, graph, peak


def block(report: Measured) -> str:
    """Measured beside what hsexport/plan/measured.py has."""
    return table(
        ": `{name}` | measured: {measured:,.0f} | written down: {written:,}", report["constants"]
    ) + measured_on(report)


@click.command()
@json_option
def main(json_file: Path | None) -> None:
    """Measure each in a process of its own; the slope between few and many layers is what one weight costs."""
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
    finish(block, json_file, constants=rows)
