"""Listens to a pair while it draws: what its products read, by layer, noise level, and whole picture or region."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from hsengines.device import Tensors
from hsengines.files import link_or_copy, replace_file
from hsengines.ort.watched import WatchedBackend
from hsengines.traits import DEFAULT_BACKEND
from hsengines.weights import UNQUANTIZED
from hsexport.build.calibration import LEVELS, MODES, Calibration, calibration_bytes, read_calibration
from hsexport.build.request import RecipeError
from hsexport.measure.prompts import Prompt, prompts_for
from hsexport.onnx.passes.expose_ranges import LARGEST, SQUARES, ExposeRanges
from hsexport.onnx.passes.graph_pass import apply
from hsexport.progress import Reporter
from hsruntime import Session
from hsruntime.bundle.reader import Bundle, open_bundle
from hsruntime.options import SessionOptions


@dataclass(frozen=True)
class CalibrationRequest:
    """What to listen to; no schedules: large alone, and the bundle's own."""

    bundle: Path
    out: Path
    prompts: int = 8
    prompt_file: Path | None = None
    schedules: tuple[str, ...] = ()


def calibrate(request: CalibrationRequest, reporter: Reporter) -> Calibration:
    """Draws prompt after prompt and keeps what was heard by then; killed anywhere, it goes on with the next prompt.

    Raises RecipeError for a bundle whose own numbers are not fp32's, and for an `out` that is another calibration.
    """
    bundle = open_bundle(request.bundle)
    _check_is_reference(bundle)
    manifest = bundle.manifest
    prompts = prompts_for(manifest, request.prompt_file, request.prompts)
    schedules = request.schedules or tuple(dict.fromkeys(("large", manifest.facts.defaults.schedule)))
    about: dict[str, Any] = {
        "members": {role: member.source for role, member in manifest.facts.members.items()},
        "prompts": [prompt.text for prompt in prompts],
        "schedules": list(schedules),
        "levels": LEVELS,
    }
    known = _begun(request.out, about)
    heard = Heard(dict(known.tensors) if known else {})
    done = known.about["done"] if known else 0
    reporter.stage("calibrate", len(prompts))
    with tempfile.TemporaryDirectory(prefix="hsexport-") as folder:
        backend = WatchedBackend(lambda engine: heard.watched(engine, Path(folder)), heard.take)
        session = Session(bundle, SessionOptions(), backend=backend)
        try:
            for number, prompt in enumerate(prompts):
                reporter.begin(prompt.text)
                if number >= done:
                    _draw(session, prompt, schedules, reporter)
                    replace_file(request.out, calibration_bytes(heard.tensors, {**about, "done": number + 1}))
                reporter.end(prompt.text)
        finally:
            session.close()
    return read_calibration(request.out)


def _draw(session: Session, prompt: Prompt, schedules: tuple[str, ...], reporter: Reporter) -> None:
    for number, schedule in enumerate(schedules):
        reporter.advance(prompt.text, "schedules", number, len(schedules))
        session.generate(prompt.text, seed=prompt.seed, schedule=schedule)


def _check_is_reference(bundle: Bundle) -> None:
    manifest = bundle.manifest
    formats = {record.weight_format for record in manifest.engines.values()} - {UNQUANTIZED}
    if manifest.backend != DEFAULT_BACKEND or formats:
        found = f"{manifest.backend}, {manifest.precision}{', ' + formats.pop() if formats else ''}"
        raise RecipeError(
            f"{bundle.path} is for {found}; ranges are measured on {DEFAULT_BACKEND} with weights as they are",
            f"build one of the same pair with --backend {DEFAULT_BACKEND}",
        )


def _begun(out: Path, about: Mapping[str, Any]) -> Calibration | None:
    """What an earlier run left, if it was the same one."""
    if not out.is_file():
        return None
    known = read_calibration(out)
    if {name: known.about.get(name) for name in about} != about or not isinstance(known.about.get("done"), int):
        raise RecipeError(f"{out} is a calibration of another pair, prompts or schedules", "name another --out")
    return known


def is_region(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a step's inputs hold keys of cached tokens."""
    return any(name.startswith("past_k") and shape[1] > 0 for name, shape in shapes.items())


class Heard:
    """What was heard so far, by the names that a calibration has for it."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.tensors = tensors
        self.weights: dict[str, dict[int, list[str]]] = {}
        self._levels: np.ndarray = np.ones(1)

    def watched(self, engine: Path, folder: Path) -> tuple[Path, list[str]]:
        """The engine's graph with outputs for what its products read, in `folder`."""
        model, ranges = ir.load(engine), ExposeRanges()
        apply(model, ranges)
        for weights in engine.parent.glob(f"{engine.name}.data"):
            link_or_copy(weights, folder / weights.name)
        ir.save(model, folder / engine.name)
        self.weights[engine.stem] = ranges.weights
        return folder / engine.name, ranges.outputs

    def take(self, engine: str, inputs: Tensors, told: Mapping[str, np.ndarray]) -> None:
        """One run of an engine. What conditions the steps is given their noise levels, which these then go by."""
        if "timesteps" in inputs:
            self._levels = inputs["timesteps"].read() / 1000
        row = int(inputs["step"].read()[0]) if "step" in inputs else None
        level = LEVELS - 1 if row is None else min(int(self._levels[row] * LEVELS), LEVELS - 1)
        mode = int(is_region({name: tensor.shape for name, tensor in inputs.items()}))
        for number, weights in self.weights[engine].items():
            for weight in weights:
                self._keep(f"{engine}/{weight}", told[f"{LARGEST} {number}"], told[f"{SQUARES} {number}"], mode, level)

    def _keep(self, name: str, largest: np.ndarray, squares: np.ndarray, mode: int, level: int) -> None:
        found = self.tensors.setdefault(f"{name}/{LARGEST}", np.zeros((len(MODES), LEVELS), np.float32))
        found[mode, level] = max(found[mode, level], largest.max(initial=0))
        known = self.tensors.get(f"{name}/{SQUARES}", 0)
        self.tensors[f"{name}/{SQUARES}"] = np.asarray(known + squares, np.float32)
