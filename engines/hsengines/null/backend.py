"""A backend that records what is enqueued and computes nothing: for tests of what surrounds the engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hsengines.backend import NO_WEIGHTS, Backend, Binding, Engine, Weights, check_binding
from hsengines.build import BuildOptions, BuildProgress, EngineFiles
from hsengines.device import Device, HostDevice, Tensors
from hsengines.spec import EngineSpec


class NullBackend(Backend[BuildOptions]):
    """Loads any engine without opening its file; `log` lists the names of engines in the order they ran."""

    name = "null"

    def __init__(self) -> None:
        self.log: list[str] = []

    def version(self) -> str:
        """Nothing is built, so nothing changes."""
        return "null 1"

    def build(
        self, onnx: Path, spec: EngineSpec, options: BuildOptions, out: Path, progress: BuildProgress | None = None
    ) -> EngineFiles:
        """Writes an empty engine."""
        del onnx, options, progress
        engine = out / f"{spec.name}.null"
        engine.touch()
        return EngineFiles(engine)

    def _open(self, name: str, threads: int, *, graphs: bool) -> HostDevice:
        """Host memory, so that tests can look at it."""
        del name, threads, graphs
        return HostDevice()

    def load(self, engine: Path, spec: EngineSpec, device: Device, replaced: Weights = NO_WEIGHTS) -> NullEngine:
        """An engine that appends to `log`."""
        del engine, device, replaced
        return NullEngine(spec, self.log)


class NullEngine(Engine):
    """Checks bindings as a real one does."""

    def __init__(self, spec: EngineSpec, log: list[str]) -> None:
        self.spec = spec
        self._log = log

    def bind(self, inputs: Tensors, outputs: Tensors, *, beside: bool = False) -> NullBinding:
        """Checks shapes and dtypes; what it would compute is zeros."""
        del beside
        check_binding(self.spec, inputs, outputs)
        for tensor in outputs.values():
            tensor.write(np.zeros(tensor.shape, tensor.dtype))
        return NullBinding(self.spec.name, self._log)

    def close(self) -> None:
        """Holds nothing."""


class NullBinding(Binding):
    """Knows only its engine's name."""

    def __init__(self, name: str, log: list[str]) -> None:
        self._name = name
        self._log = log

    def enqueue(self) -> None:
        """Writes the name down."""
        self._log.append(self._name)

    def close(self) -> None:
        """Holds nothing."""
