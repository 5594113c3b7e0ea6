#!/usr/bin/env python3
"""Measures what `hsexport plan` cannot count (hsexport/plan/measured.py); takes half a minute.

PYTHONPATH=scripts:tests:.:runtime:engines python scripts/measure plan
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hsexport.measure.new_process import in_new_process
from hsexport.plan import measured

FEW, MANY = 2, 12  # layers


def exported(layers: int) -> tuple[int, int]:
    """(weights, bytes of the graph) of exporting the tiny pair's large with as many layers."""
    from tiny_pair import make_pair  # type: ignore[import-not-found]

    from hsexport.build.memory import return_what_is_freed
    from hsexport.build.networks import networks_of
    from hsexport.build.recipe import BuildRequest, recipe_for
    from hsexport.build.stages.export import export_all
    from hsexport.build.store import Store
    from hsexport.plan.networks import holding_of
    from hsexport.progress import Silent

    return_what_is_freed()
    with TemporaryDirectory() as folder:
        root = Path(folder)
        large, small = map(str, make_pair(root / "pair", layers=layers))
        request = BuildRequest(large, small, root / "bundle", root / "cache")
        recipe = recipe_for(request)
        network = next(each for each in networks_of(recipe) if each.name == "large")
        (product,) = export_all([network], Store(request.cache), Silent())
        return len(holding_of(network, recipe).tensors), product.onnx.stat().st_size


def runner() -> None:
    """What a process imports that could run a bundle."""
    import onnxruntime  # noqa: F401
    import tokenizers  # noqa: F401

    import hsruntime.session  # noqa: F401


def main() -> None:
    """Each in a process of its own; the slope between few and many layers is what one weight costs."""
    (few, few_graph), few_peak = in_new_process(exported, FEW)
    (many, many_graph), many_peak = in_new_process(exported, MANY)
    _, running = in_new_process(runner)
    slope = (many_peak - few_peak) / (many - few)
    found = {
        "EXPORT_PROCESS": few_peak - slope * few,
        "EXPORT_PER_TENSOR": slope,
        "GRAPH_PER_TENSOR": (many_graph - few_graph) / (many - few),
        "RUNNER_PROCESS": running,
    }
    for name, value in found.items():
        print(f"{name:20} {value:14,.0f}  written down {getattr(measured, name):14,}")


if __name__ == "__main__":
    main()
