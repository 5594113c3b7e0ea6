#!/usr/bin/env python3
"""Where the transformers' time goes on a CPU: ONNX Runtime's own profile of a step of each, sorted by kind of work.

It explains why a schedule falls short of what counting operations promises: only matrix products are counted.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import onnxruntime as ort
import typer
from rich.console import Console
from rich.table import Table

from hsengines.ort.pool import shared_options, use_shared_pool
from hsengines.spec import EngineSpec, Profile
from hsexport.measure.bench.hardware import hardware
from hsexport.measure.contact_sheet import write_report
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


@dataclass(frozen=True)
class StepProfile:
    """One step of one engine: `shares` of its nodes' time by kind of work."""

    step: str
    ms: float
    gflops: float  # counted, a step of two rows
    gflops_per_second: float
    shares: dict[str, float]


def profiles_of(bundle: Bundle, rounds: int) -> Iterator[StepProfile]:
    """Large over all tokens and over the region, then small."""
    manifest, text = bundle.manifest, bundle.manifest.facts.text_tokens
    for step, engine, role, profile in (
        ("large", "large", manifest.facts.large, "full"),
        ("large on the region", "large", manifest.facts.large, "region"),
        ("small", "small", manifest.facts.small, "full"),
    ):
        record = manifest.engines[engine]
        spec = record.spec
        dims = {dim: size.optimum for dim, size in _profile(spec, profile).dims.items()} | {"G": ROWS}
        active = dims.get("M", dims.get("N", 0))
        flops = ROWS * step_flops(role, active, active + dims.get("R", 0), text)
        times, shares = _profiled(bundle.file(record.file), _inputs(spec, dims), rounds)
        yield StepProfile(step, 1000 * median(times), flops / 1e9, flops / 1e9 / median(times), shares)


def _profile(spec: EngineSpec, name: str) -> Profile:
    return next(profile for profile in spec.profiles if profile.name == name)


def _inputs(spec: EngineSpec, dims: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {tensor.name: (tensor.resolve(dims), tensor.dtype) for tensor in spec.inputs}
    return {name: rng.standard_normal(shape).astype(dtype) % 1 for name, (shape, dtype) in shapes.items()}


def _profiled(engine: Path, inputs: dict[str, np.ndarray], rounds: int) -> tuple[list[float], dict[str, float]]:
    """Seconds of each round after the first, and the share of nodes' time by kind of work."""
    options = shared_options()
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "step")
        session = ort.InferenceSession(engine, options, providers=["CPUExecutionProvider"])
        for _ in range(rounds + 1):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs = [e["dur"] / 1e6 for e in events if e.get("name") == "model_run"][1:]
    spent = dict.fromkeys((*KINDS, MOVING), 0)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[_kind(event["args"]["op_name"])] += event["dur"]
    whole = sum(spent.values())
    return runs, {kind: duration / whole for kind, duration in spent.items()}


def _kind(operator: str) -> str:
    return next((kind for kind, operators in KINDS.items() if operator in operators), MOVING)


def main(
    bundle: Annotated[Path, typer.Argument(help="a bundle for ort-cpu")],
    rounds: Annotated[int, typer.Option(min=1, help="steps of each, after one that does not count")] = 20,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads, 0 for all")] = 0,
    out: Annotated[Path | None, typer.Option("--json", help="also write the numbers here")] = None,
) -> None:
    """Profile one step of large, of large on the region, and of small."""
    use_shared_pool(threads)
    rows = list(profiles_of(open_bundle(bundle), rounds))
    table = Table("step", "ms", "counted GFLOP", "GFLOP/s", *rows[0].shares)
    for row in rows:
        shares = (f"{share:.0%}" for share in row.shares.values())
        table.add_row(row.step, f"{row.ms:.1f}", f"{row.gflops:.2f}", f"{row.gflops_per_second:.0f}", *shares)
    Console().print(table)
    if out:
        write_report(out, {"hardware": asdict(hardware(threads)), "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    typer.run(main)
