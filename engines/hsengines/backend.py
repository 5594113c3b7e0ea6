"""What a backend is, and how one is found by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from hsengines.errors import BackendUnavailable
from hsengines.spec import EngineSpec
from hsengines.traits import named, traits_of

if TYPE_CHECKING:
    from hsengines.build import BuildOptions, BuildProgress, EngineFiles

Options = TypeVar("Options", bound="BuildOptions")
"""A backend's own record of what its builder can be told."""

Enqueue = Callable[[], None]
"""Puts one piece of work on a device; may return before it is done."""


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


class Replay(ABC):
    """A fixed sequence of work, ready to be repeated: a CUDA graph where the device has them."""

    @abstractmethod
    def launch(self) -> None:
        """Enqueues the whole sequence once."""

    @abstractmethod
    def close(self) -> None:
        """Frees what the replay holds; to be called before what it replays is closed."""


class Mark(ABC):
    """A point in a device's work."""

    @abstractmethod
    def wait(self) -> None:
        """Returns when everything enqueued before the mark is done. Raises DeviceError if any of it failed."""


class Device(ABC):
    """A place where tensors live and engines run, in the order in which work is enqueued."""

    name: str
    allocated_bytes: int
    """What tensors made here hold at present."""
    two_streams: bool = False
    """Whether `fork` may run its two sequences at the same time, where the device can."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Uninitialised memory. Raises DeviceMemoryError."""

    @abstractmethod
    def replay(self, sequence: Sequence[Enqueue]) -> Replay:
        """Makes `sequence` repeatable. On a GPU this runs it once to warm up, so its buffers must hold sane values."""

    @abstractmethod
    def mark(self) -> Mark:
        """The point that has been reached in enqueueing."""

    @abstractmethod
    def synchronize(self) -> None:
        """Waits for everything enqueued. Raises DeviceError."""

    @abstractmethod
    def close(self) -> None:
        """Frees the device's own memory; its tensors, replays and engines must be gone."""

    def beside(self) -> AbstractContextManager[None]:
        """Engines bound inside are for the second sequence of a `fork`."""
        return nullcontext()

    def fork(self, first: Sequence[Enqueue], second: Sequence[Enqueue]) -> Enqueue:
        """Both sequences as one piece of work, done when both are; neither may read what the other writes."""
        calls = (*first, *second)

        def enqueue() -> None:
            for each in calls:
                each()

        return enqueue

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

    @abstractmethod
    def close(self) -> None:
        """Frees what the binding holds; replays of it must be closed before."""


class Engine(ABC):
    """A loaded engine."""

    spec: EngineSpec

    @abstractmethod
    def bind(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Binding:
        """Fixes shapes and addresses. Raises ShapeError if they do not fit the spec or no profile admits them."""

    @abstractmethod
    def close(self) -> None:
        """Frees what the engine holds; bindings made from it must not be enqueued again."""


class Backend(ABC, Generic[Options]):
    """Builds engines from ONNX files and loads them."""

    name: str
    """As in the registry of `traits`."""
    cache: Path | None = None
    """A folder for what saves time later and decides nothing: measurements of kernels, compiled kernels."""

    @abstractmethod
    def version(self) -> str:
        """Builder name and version, as they enter the build key."""

    def check_options(self, options: Options) -> None:
        """Raises EngineBuildError for options that this backend cannot build with, before any work is done."""
        options.check_for(self.name)

    def key_facts(self, options: Options) -> dict[str, str]:
        """What of `options` decides the engine that comes out, for the build key; the graph has a digest of its own."""
        del options
        return {}

    def target(self, options: Options) -> str:
        """Which devices the engines are for, in words: "any CPU", "sm_89, sm_120"."""
        del options
        return "any"

    @abstractmethod
    def build(
        self, onnx: Path, spec: EngineSpec, options: Options, out: Path, progress: BuildProgress | None = None
    ) -> EngineFiles:
        """Compiles `onnx` into the empty folder `out`. Raises EngineBuildError, which carries the builder's log."""

    @abstractmethod
    def why_not_here(self) -> str:
        """Why this machine cannot run the backend's engines, in words; empty if it can."""

    @abstractmethod
    def device(self, threads: int = 0, *, graphs: bool = True) -> Device:
        """The device this backend's engines run on. Raises BackendUnavailable.

        `threads` matters to CPUs only, 0 means all cores; `graphs` to GPUs only: without, replays enqueue one by one.
        """

    @abstractmethod
    def load(self, engine: Path, spec: EngineSpec, device: Device) -> Engine:
        """Loads a built engine. Raises EngineLoadError."""


def get_backend(name: str, cache: Path | None = None) -> Backend:
    """The backend called `name`, which keeps things in `cache`; its library is imported here and nowhere earlier.

    Raises BackendUnavailable if there is no such backend, or its library is missing or cannot be loaded.
    """
    traits = traits_of(name)
    try:
        backend: Backend = named(traits.backend)()
    except ModuleNotFoundError as err:
        told = f"backend '{name}' needs the module '{err.name}', which is missing"
        raise BackendUnavailable(told, traits.install) from err
    except ImportError as err:
        raise BackendUnavailable(f"backend '{name}' does not work here: {err}", traits.install) from err
    backend.cache = cache
    return backend
