"""ONNX Runtime on the CPU: fp32, builds and runs anywhere."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from hsengines.backend import Backend
from hsengines.build import BuildOptions, BuildProgress, EngineFiles
from hsengines.device import Device, HostDevice
from hsengines.ort.session import OrtEngine, open_session, open_unchecked, shared_options, take_graph, use_shared_pool
from hsengines.spec import EngineSpec

PROVIDERS = ["CPUExecutionProvider"]


def run_graph(onnx: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of any ONNX file, run once: for graphs whose shapes nobody has written down as a spec.

    Raises EngineLoadError.
    """
    session = open_unchecked(onnx, shared_options(), PROVIDERS)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def profile_graph(onnx: Path, inputs: Mapping[str, np.ndarray], rounds: int) -> list[dict[str, Any]]:
    """What ONNX Runtime notes of as many runs of any ONNX file: an event for each run, and one for each of its nodes.

    Raises EngineLoadError.
    """
    options = shared_options()
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "run")
        session = open_unchecked(onnx, options, PROVIDERS)
        for _ in range(rounds):
            session.run(None, dict(inputs))
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return events


class OrtCpuBackend(Backend[BuildOptions]):
    """The embedded default and the accuracy reference."""

    name = "ort-cpu"

    def version(self) -> str:
        """ONNX Runtime's version."""
        return f"onnxruntime {ort.__version__}"

    def target(self, options: BuildOptions) -> str:
        """Kernels are picked when an engine is loaded."""
        del options
        return "any CPU"

    def build(
        self, onnx: Path, spec: EngineSpec, options: BuildOptions, out: Path, progress: BuildProgress | None = None
    ) -> EngineFiles:
        """Takes the ONNX file as the engine, once ONNX Runtime has accepted every node of it.

        The optimised graph is not stored: it would hold kernels picked for the building machine's CPU. `out` may share
        the file and its weights with `onnx`, which must not be edited afterwards.
        """
        del progress
        self.check_options(options)
        files = take_graph(onnx, out)
        self.load(files.engine, spec, self.device()).close()
        return files

    def why_not_here(self) -> str:
        """Any CPU will do."""
        return ""

    def device(self, threads: int = 0, *, graphs: bool = True) -> HostDevice:
        """The CPU. The first call of the process decides how many threads all engines share."""
        del graphs
        use_shared_pool(threads)
        return HostDevice(threads)

    def load(self, engine: Path, spec: EngineSpec, device: Device) -> OrtEngine:
        """Loads an ONNX file and checks its inputs and outputs against `spec`."""
        del device
        return OrtEngine(spec, open_session(engine, spec, shared_options(), PROVIDERS))
