"""What a backend is, and the lazy registry that finds one by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import numpy as np

from hsengines.errors import BackendUnavailable
from hsengines.spec import EngineSpec


class Tensor(ABC):
    """Memory on a device with a shape and a dtype; owned by whoever made it, alive as long as it is referenced."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @abstractmethod
    def write(self, array: np.ndarray) -> None:
        """Copies a host array of the same shape and dtype in."""

    @abstractmethod
    def read(self) -> np.ndarray:
        """A host copy."""

    @abstractmethod
    def copy_from(self, other: Tensor) -> None:
        """Copies another tensor of the same shape and dtype on the device."""


class Device(ABC):
    """A place where tensors live."""

    name: str

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Uninitialised memory."""

    def upload(self, array: np.ndarray) -> Tensor:
        """A new tensor holding `array`."""
        tensor = self.empty(array.shape, array.dtype.name)
        tensor.write(array)
        return tensor


class Binding(ABC):
    """An engine tied to its buffers; `enqueue` runs it and does nothing else."""

    @abstractmethod
    def enqueue(self) -> None:
        """Runs the engine once over the bound buffers."""


class Engine(ABC):
    """A loaded engine."""

    spec: EngineSpec

    @abstractmethod
    def bind(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Binding:
        """Fixes shapes and addresses. Raises ShapeError if they do not fit the spec or no profile admits them."""

    @abstractmethod
    def close(self) -> None:
        """Frees what the engine holds; bindings made from it must not be enqueued again."""


@dataclass(frozen=True)
class BuildOptions:
    """What reaches a builder besides the network; part of the build key."""

    precision: str = "fp32"
    target: str = "any"


@dataclass(frozen=True)
class EngineFiles:
    """What a build leaves: the engine itself, and weight files it refers to by bare name in its own folder."""

    engine: Path
    weights: tuple[Path, ...] = field(default=())


class Backend(ABC):
    """Builds engines from ONNX files and loads them."""

    name: str

    @abstractmethod
    def version(self) -> str:
        """Builder name and version, as they enter the build key."""

    @abstractmethod
    def check_options(self, options: BuildOptions) -> None:
        """Raises EngineBuildError for options that this backend cannot build with, before any work is done."""

    @abstractmethod
    def build(self, onnx: Path, spec: EngineSpec, options: BuildOptions, out: Path) -> EngineFiles:
        """Compiles `onnx` into the empty folder `out`. Raises EngineBuildError."""

    @abstractmethod
    def device(self, threads: int = 0) -> Device:
        """The device this backend's engines run on; `threads` matters to CPUs only, 0 means all cores."""

    @abstractmethod
    def load(self, engine: Path, spec: EngineSpec, device: Device) -> Engine:
        """Loads a built engine. Raises EngineLoadError."""


_BACKENDS = {
    "ort-cpu": ("hsengines.ort.cpu", "OrtCpuBackend", "pip install 'hsexport[cpu]'"),
    "null": ("hsengines.null", "NullBackend", ""),
}


def backend_names() -> list[str]:
    """The backends a bundle may be built for."""
    return [name for name in _BACKENDS if name != "null"]


def get_backend(name: str) -> Backend:
    """The backend called `name`; its library is imported here and nowhere earlier.

    Raises BackendUnavailable if there is no such backend, or its library is missing or cannot be loaded.
    """
    if name not in _BACKENDS:
        raise BackendUnavailable(f"there is no backend '{name}'", f"choose one of {', '.join(backend_names())}")
    module, attribute, install = _BACKENDS[name]
    try:
        return getattr(import_module(module), attribute)()
    except ModuleNotFoundError as err:
        raise BackendUnavailable(f"backend '{name}' needs the module '{err.name}', which is missing", install) from err
    except ImportError as err:
        raise BackendUnavailable(f"backend '{name}' does not work here: {err}", install) from err
