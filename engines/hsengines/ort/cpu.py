"""ONNX Runtime on the CPU: fp32, builds and runs anywhere."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hsengines.backend import NO_WEIGHTS, Timings, Weights
from hsengines.build import BuildOptions
from hsengines.cores import checked_threads
from hsengines.device import Device, HostDevice
from hsengines.errors import EngineBuildError
from hsengines.ort.session import (
    OrtBackend,
    OrtEngine,
    open_session,
    open_unchecked,
    replace_weights,
    session_options,
)
from hsengines.screening import screen, weights_made_anew
from hsengines.spec import EngineSpec

PROVIDERS = ["CPUExecutionProvider"]
DEQUANTISES = "DequantizeLinear"
"""The operator in front of what multiplies with quantised weights, until ONNX Runtime has kernels of its own for it."""


def run_graph(onnx: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of any ONNX file, run once: for graphs that no spec describes. Raises EngineLoadError."""
    session = open_unchecked(onnx, session_options(), PROVIDERS)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _check_lowered(engine: str, lowered: Path) -> None:
    """Raises EngineBuildError where ONNX Runtime's own graph makes numbers of a whole weight whenever it runs."""
    if weight := next(weights_made_anew(lowered), None):
        raise EngineBuildError(
            f"{engine}: ONNX Runtime would make numbers of all of weight '{weight}' in every step",
            "leave it as it is: --weights ...,NETWORK:MODULE=unquantized",
        )


class OrtCpuBackend(OrtBackend):
    """The embedded default and the accuracy reference."""

    name = "ort-cpu"
    serves = "any CPU"
    _threads = 0

    def _open(self, name: str, threads: int, *, graphs: bool) -> HostDevice:
        """The CPU; all engines that are loaded afterwards use so many threads."""
        del name, graphs
        self._threads = checked_threads(threads)
        return HostDevice()

    def load(self, engine: Path, spec: EngineSpec, device: Device, replaced: Weights = NO_WEIGHTS) -> OrtEngine:
        """Loads an ONNX file and checks its inputs and outputs against `spec`."""
        del device
        options = session_options(self._threads)
        replace_weights(options, replaced)
        return OrtEngine(spec, open_session(engine, spec, options, PROVIDERS))

    def profile(self, engine: Path, inputs: Weights, rounds: int, threads: int = 0) -> Timings:
        """By ONNX Runtime's own events."""
        options = session_options(threads)
        options.enable_profiling = True
        with tempfile.TemporaryDirectory() as folder:
            options.profile_file_prefix = str(Path(folder) / "run")
            session = open_unchecked(engine, options, PROVIDERS)
            for _ in range(rounds + 1):
                session.run(None, dict(inputs))
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        first, *ran = (event for event in events if event.get("name") == "model_run")
        operators: dict[str, float] = defaultdict(float)
        for event in events:
            if event["ts"] >= first["ts"] + first["dur"] and event["name"].endswith("_kernel_time"):
                operators[event["args"]["op_name"]] += event["dur"] / 1e6
        return [event["dur"] / 1e6 for event in ran], operators

    def _try(self, engine: Path, spec: EngineSpec, options: BuildOptions) -> None:
        del options
        if DEQUANTISES not in screen(engine):
            open_session(engine, spec, session_options(), PROVIDERS)
            return
        with tempfile.TemporaryDirectory(dir=engine.parent) as folder:
            session = session_options()
            session.optimized_model_filepath = str(Path(folder) / "lowered.onnx")
            session.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
            open_session(engine, spec, session, PROVIDERS)
            _check_lowered(engine.name, Path(session.optimized_model_filepath))
