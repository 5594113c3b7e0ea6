"""Engines that also answer what their spec does not name, each time they run: how calibration listens to a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from hsengines.backend import NO_WEIGHTS, Weights
from hsengines.device import Device, Tensor, Tensors
from hsengines.ort.cpu import PROVIDERS, OrtCpuBackend
from hsengines.ort.session import OrtBinding, OrtEngine, open_unchecked, session_options
from hsengines.spec import EngineSpec

Heard = Callable[[str, Tensors, Mapping[str, np.ndarray]], None]
"""Takes an engine's name, what it was given and what else it answered."""
Watched = Callable[[Path], tuple[Path, Sequence[str]]]
"""Makes of an engine's file one with more outputs, which it names."""


class WatchedBackend(OrtCpuBackend):
    """Opens what `watched` makes of each engine's file, and has `heard` told of every run."""

    def __init__(self, watched: Watched, heard: Heard) -> None:
        self._watched, self._heard = watched, heard

    def load(self, engine: Path, spec: EngineSpec, device: Device, replaced: Weights = NO_WEIGHTS) -> OrtEngine:
        """As the CPU's backend does; other weights are not taken."""
        del device, replaced
        file, names = self._watched(engine)
        return WatchedEngine(spec, file, names, self._heard)


class WatchedEngine(OrtEngine):
    """A session whose further outputs lie where ONNX Runtime puts them."""

    def __init__(self, spec: EngineSpec, file: Path, names: Sequence[str], heard: Heard) -> None:
        super().__init__(spec, open_unchecked(file, session_options(), PROVIDERS))
        self.names, self.heard = names, heard

    def bind(self, inputs: Tensors, outputs: Tensors, *, beside: bool = False) -> OrtBinding:
        """As without them."""
        self._given = inputs
        return super().bind(inputs, outputs, beside=beside)

    def _binding(self, session: ort.InferenceSession, io: ort.IOBinding, kept: list[Tensor]) -> OrtBinding:
        for name in self.names:
            io.bind_output(name, self.placement)
        return WatchedBinding(self, session, io, kept, self._given)


class WatchedBinding(OrtBinding):
    """Tells of every run."""

    def __init__(
        self,
        engine: WatchedEngine,
        session: ort.InferenceSession,
        io: ort.IOBinding,
        kept: list[Tensor],
        given: Tensors,
    ) -> None:
        super().__init__(engine.spec.name, session, io, kept)
        self._engine, self._given, self._answers = engine, given, io.get_outputs

    def enqueue(self) -> None:
        """Runs the session once. Raises DeviceError."""
        super().enqueue()
        names = self._engine.names
        answers = self._answers()[-len(names) :] if names else []
        told = {name: value.numpy() for name, value in zip(names, answers, strict=True)}
        self._engine.heard(self._engine.spec.name, self._given, told)
