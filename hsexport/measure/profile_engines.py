"""Where the transformers' time goes on a CPU: ONNX Runtime's own profile of a step of each, sorted by kind of work.

It explains why a schedule falls short of what counting operations promises: only matrix products are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from hsengines.spec import EngineSpec
from hsexport.measure.blocks import Measured, bundle_argument, finish, json_option, measured_on, table
from hsruntime.bundle.reader import Bundle, open_bundle
from hsruntime.schedule.arithmetic import step_flops

KINDS = {
    "products": ("Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Attention"),
    "norms and elementwise": (
        *("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization", "Gelu", "Sigmoid", "QuickGelu"),
        *("Add", "Mul", "Sin", "Cos"),
    ),
}
"""Operators by kind; every other one moves numbers about or bends their shape."""
MOVING = "moving"
ROWS = 2  # guidance's
COLUMNS = (
    "step: {step} | ms: {ms:.0f} | counted GFLOP a second: {gflops_per_second:.0f}"
    " | share of products: {shares[products]:.2f} | of norms and elementwise: {shares[norms and elementwise]:.2f}"
    " | of moving numbers: {shares[moving]:.2f}"
)


def profiles_of(bundle: Bundle, rounds: int) -> Iterator[dict[str, Any]]:
    """A step of large over all tokens and over the region, then of small; operations are those of two rows."""
    manifest, text = bundle.manifest, bundle.manifest.facts.text_tokens
    for step, engine, role, profile in (
        ("large", "large", manifest.facts.large, "full"),
        ("large on the region", "large", manifest.facts.large, "region"),
        ("small", "small", manifest.facts.small, "full"),
    ):
        record = manifest.engines[engine]
        spec = record.spec
        sizes = next(each for each in spec.profiles if each.name == profile).dims
        dims = {dim: size.optimum for dim, size in sizes.items()} | {"G": ROWS}
        active = dims.get("M", dims.get("N", 0))
        gflops = ROWS * step_flops(role, active, active + dims.get("R", 0), text) / 1e9
        times, shares = _profiled(bundle.file(record.file), _inputs(spec, dims), rounds)
        seconds = float(np.median(times))
        rate = gflops / seconds
        yield {"step": step, "ms": 1000 * seconds, "gflops": gflops, "gflops_per_second": rate, "shares": shares}


def _inputs(spec: EngineSpec, dims: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {tensor.name: (tensor.resolve(dims), tensor.dtype) for tensor in spec.inputs}
    return {name: rng.standard_normal(shape).astype(dtype) % 1 for name, (shape, dtype) in shapes.items()}


def _profiled(engine: Path, inputs: dict[str, np.ndarray], rounds: int) -> tuple[list[float], dict[str, float]]:
    """Seconds of each round after the first, and the share of nodes' time by kind of work."""
    from hsengines.ort.cpu import profile_graph

    events = profile_graph(engine, inputs, rounds + 1)
    runs = [e["dur"] / 1e6 for e in events if e.get("name") == "model_run"][1:]
    spent = dict.fromkeys((*KINDS, MOVING), 0)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[_kind(event["args"]["op_name"])] += event["dur"]
    whole = sum(spent.values())
    return runs, {kind: duration / whole for kind, duration in spent.items()}


def _kind(operator: str) -> str:
    return next((kind for kind, operators in KINDS.items() if operator in operators), MOVING)


def block(report: Measured) -> str:
    """Three kinds of step."""
    return table(COLUMNS, report["rows"]) + measured_on(report)


@click.command()
@bundle_argument
@click.option("--rounds", default=20, type=click.IntRange(1), help="steps of each, after one that does not count")
@click.option("--threads", default=0, type=click.IntRange(0), help="CPU threads, 0 for all")
@json_option
def main(bundle: Path, rounds: int, threads: int, json_file: Path | None) -> None:
    """Profile one step of large, of large on the region, and of small; BUNDLE is one for ort-cpu."""
    from hsengines.ort.session import use_shared_pool

    use_shared_pool(threads)
    finish(block, json_file, threads, rows=list(profiles_of(open_bundle(bundle), rounds)))
