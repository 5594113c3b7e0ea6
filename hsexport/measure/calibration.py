"""What 8-bit activations cost where, by the ranges that they are given: simulated on a CPU over a pair's own steps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from hsengines.device import Tensors
from hsengines.ort.cpu import run_graph
from hsengines.ort.watched import WatchedBackend
from hsengines.weights import asked_weights
from hsexport.build.calibration import LARGEST, Calibration, Ranges, read_calibration
from hsexport.build.verify.bundle import UNNAMED, recipe_of
from hsexport.measure.blocks import PATH, Measured, bundle_argument, grid, measured_on, measurement
from hsexport.measure.calibrate import is_region
from hsexport.measure.prompts import prompts_for
from hsexport.networks.network import Network
from hsexport.onnx.graph_files import load_graph, save_graph
from hsexport.onnx.passes.dequantise import Dequantise
from hsexport.onnx.passes.expose_blocks import ExposeBlocks
from hsexport.onnx.passes.graph_pass import GraphPass, apply
from hsexport.onnx.passes.quantise import Quantise, Storage
from hsruntime import Session
from hsruntime.bundle.reader import Bundle, open_bundle
from hsruntime.options import SessionOptions

NETWORK, VELOCITY = "large", "velocity"
FORMATS = ("fp8", "int8-full")
EVERY = 3
"""Steps from one that is looked at to the next."""
Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Seen:
    """One step's inputs, and whether it was a region's."""

    region: bool
    inputs: Inputs


def steps_seen(bundle: Bundle, prompts: list[str], schedules: list[str]) -> list[Seen]:
    """Every so many of the network's steps while these prompts are drawn."""
    seen: list[Seen] = []
    count = 0

    def heard(engine: str, inputs: Tensors, _: Mapping[str, np.ndarray]) -> None:
        nonlocal count
        if engine == NETWORK:
            count += 1
            if count % EVERY == 0:
                given = {name: tensor.read().copy() for name, tensor in inputs.items()}
                seen.append(Seen(is_region({name: array.shape for name, array in given.items()}), given))

    session = Session(bundle, SessionOptions(), backend=WatchedBackend(lambda file: (file, []), heard))
    try:
        for number, prompt in enumerate(prompts):
            for schedule in schedules:
                session.generate(prompt, seed=number, schedule=schedule)
    finally:
        session.close()
    return seen


def values_of(engine: Path, passes: list[GraphPass], seen: list[Seen]) -> list[dict[str, np.ndarray]]:
    """What each block hands on, and the velocity, at each step."""
    model, blocks = load_graph(engine), ExposeBlocks()
    apply(model, blocks, *passes)
    with tempfile.TemporaryDirectory(prefix="hsexport-") as folder:
        file = Path(folder) / engine.name
        save_graph(model, file)
        names = {VELOCITY: VELOCITY, **{block: name for block, name in blocks.outputs.items() if "/" not in block}}
        found = (run_graph(file, step.inputs) for step in seen)
        return [{block: values[name] for block, name in names.items()} for values in found]


def ways_of(calibration: Calibration) -> dict[str, Ranges]:
    """Ranges by how much of a calibration they know."""
    ours = (a for n, a in calibration.tensors.items() if n.startswith(f"{NETWORK}/") and n.endswith(LARGEST))
    heard = np.flatnonzero(np.sum([array.sum(0) for array in ours], axis=0))
    first, last = int(heard[-1]), int(heard[0])
    return {
        "every noise level": calibration.of(NETWORK),
        "the first noise level alone": calibration.of(NETWORK, levels=[first]),
        "the last noise level alone": calibration.of(NETWORK, levels=[last]),
        "whole pictures alone": calibration.of(NETWORK, modes=[0]),
        "activations as they are": Ranges(importance=calibration.of(NETWORK).importance),
    }


def errors(
    found: list[dict[str, np.ndarray]], wanted: list[dict[str, np.ndarray]], seen: list[Seen]
) -> Iterator[tuple[str, float]]:
    """Root mean squares of errors over those of values: of each block over all steps, of the velocity by mode."""
    regions = [number for number, step in enumerate(seen) if step.region]
    for block in wanted[0]:
        yield block, _relative(found, wanted, block, range(len(seen)))
    if regions:
        yield f"{VELOCITY} of regions", _relative(found, wanted, VELOCITY, regions)


def _relative(
    found: list[dict[str, np.ndarray]], wanted: list[dict[str, np.ndarray]], block: str, steps: Sequence[int]
) -> float:
    error = sum(float(((found[step][block] - wanted[step][block]) ** 2).sum()) for step in steps)
    return float((error / sum(float((wanted[step][block] ** 2).sum()) for step in steps)) ** 0.5)


def block(report: Measured) -> str:
    """A row for each format and choice of ranges, a column for each block."""
    rows = report["rows"]
    blocks = list(rows[0]["errors"])
    cells = ([row["format"], row["ranges"], *(f"{row['errors'][name]:.3f}" for name in blocks)] for row in rows)
    shown = [name.replace("transformer_blocks.", "block ") for name in blocks]
    return grid(["format", "ranges of", *shown], cells) + measured_on(
        report, f"{report['steps']} steps of {NETWORK}, {report['regions']} of them over regions"
    )


@measurement(block)
@bundle_argument
@click.argument("file", type=PATH)
@click.option("--prompts", "count", default=3, type=click.IntRange(1), help="not those of FILE, if there are others")
def calibration(bundle: Path, file: Path, count: int) -> dict[str, Any]:
    """Simulate 8-bit weights and activations of large on an fp32 bundle for ort-cpu, with ranges from FILE."""
    opened, known = open_bundle(bundle), read_calibration(file)
    network: Network = next(n for n in recipe_of(opened, UNNAMED).networks() if n.name == NETWORK)
    manifest = opened.manifest
    fresh = [p.text for p in prompts_for(manifest, None, 40) if p.text not in known.about["prompts"]]
    seen = steps_seen(opened, fresh[:count], ["large", manifest.facts.defaults.schedule])
    engine = opened.file(manifest.engines[NETWORK].file)
    wanted, rows = values_of(engine, [], seen), []
    for format in FORMATS:
        asked = asked_weights(format)
        for told, ranges in ways_of(known).items():
            storage = Storage(partial(network.format_of, asked), largest=ranges.largest)
            found = values_of(engine, [Quantise(storage), Dequantise()], seen)
            rows.append({"format": format, "ranges": told, "errors": dict(errors(found, wanted, seen))})
    return {"rows": rows, "steps": len(seen), "regions": sum(step.region for step in seen)}
