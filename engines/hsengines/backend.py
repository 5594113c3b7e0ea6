"""What a backend is, and how one is found by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from hsengines.device import Device, Tensors
from hsengines.errors import BackendUnavailable, ShapeError
from hsengines.spec import EngineSpec, TensorSpec
from hsengines.traits import named, traits_of

if TYPE_CHECKING:
    from hsengines.build import BuildOptions, BuildProgress, EngineFiles

Weights = Mapping[str, np.ndarray]
"""Numbers by the names of a graph's initialisers, C-contiguous."""
NO_WEIGHTS: Weights = {}
Timings = tuple[list[float], dict[str, float]]
"""Seconds of each run of an engine, and of all of them together by the library's own names of operators."""
Options = TypeVar("Options", bound="BuildOptions")
"""A backend's own record of what its builder can be told."""


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
    def bind(self, inputs: Tensors, outputs: Tensors, *, beside: bool = False) -> Binding:
        """Fixes shapes, addresses, and where it runs: `beside`, for the second sequence of a `Device.fork`.

        Raises ShapeError if they do not fit the spec or no profile admits them.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees what the engine holds; bindings made from it must not be enqueued again."""


def check_binding(spec: EngineSpec, inputs: Tensors, outputs: Tensors) -> dict[str, int]:
    """The extents of a binding. Raises ShapeError where names, dtypes or shapes do not fit `spec`."""
    dims = spec.dims_of({name: tensor.shape for name, tensor in inputs.items()})
    spec.profile_index(dims)
    _check_tensors(spec.name, spec.inputs, inputs, dims)
    _check_tensors(spec.name, spec.outputs, outputs, dims)
    return dims


def _check_tensors(engine: str, specs: tuple[TensorSpec, ...], tensors: Tensors, dims: Mapping[str, int]) -> None:
    unknown = set(tensors) - {s.name for s in specs}
    if unknown:
        raise ShapeError(f"engine '{engine}' has no tensor named {', '.join(sorted(unknown))}")
    for spec in specs:
        if spec.name not in tensors:
            raise ShapeError(f"engine '{engine}': nothing is bound to '{spec.name}'")
        tensor, shape = tensors[spec.name], spec.resolve(dims)
        if tensor.dtype.name != spec.dtype or tensor.shape != shape:
            found, expected = f"{tensor.dtype.name}{tensor.shape}", f"{spec.dtype}{shape}"
            raise ShapeError(f"engine '{engine}', tensor '{spec.name}': found {found}, expected {expected}")


class Backend(ABC, Generic[Options]):
    """Builds engines from ONNX files and loads them."""

    name: str
    """As in the registry of `traits`."""
    serves: str = "any"
    """Which devices engines are for, in words, where no option decides it."""
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
        return self.serves

    @abstractmethod
    def build(
        self, onnx: Path, spec: EngineSpec, options: Options, out: Path, progress: BuildProgress | None = None
    ) -> EngineFiles:
        """Compiles `onnx` into the empty folder `out`. Raises EngineBuildError, which carries the builder's log."""

    def why_not_here(self) -> str:
        """Why this machine cannot run the backend's engines, in words; empty if it can."""
        return ""

    def devices(self) -> list[str]:
        """What engines can run on here, by name, the default first; empty where there is a reason `why_not_here`."""
        return [] if self.why_not_here() else ["CPU" if traits_of(self.name).on_cpu else "GPU"]

    def device(self, threads: int = 0, *, graphs: bool = True, name: str = "") -> Device:
        """The device this backend's engines run on. Raises BackendUnavailable.

        `threads` matters to CPUs only, 0 means all cores; `graphs` to GPUs only: without, replays enqueue one by one.
        `name` is one of `devices`, or empty for the first of them.
        """
        self.check_device(name)
        return self._open(name, threads, graphs=graphs)

    def check_device(self, name: str) -> None:
        """Raises BackendUnavailable for a name that is not one of `devices`; an empty one stands for the first."""
        if name and name not in (found := self.devices()):
            told = f"backend '{self.name}' finds no device '{name}' here, "
            if not found:
                raise BackendUnavailable(f"{told}nor any other: {self.why_not_here()}", "run it on another machine")
            raise BackendUnavailable(f"{told}only {', '.join(found)}", "name one that it finds, or leave --device out")

    def profile(self, engine: Path, inputs: Weights, rounds: int, threads: int = 0) -> Timings:
        """Where the time goes of `rounds` runs over `inputs`, after one that does not count. Raises BackendUnavailable.

        `threads` as of a device.
        """
        del engine, inputs, rounds, threads
        raise BackendUnavailable(f"backend '{self.name}' does not tell where its time goes", "name a bundle for a CPU")

    @abstractmethod
    def _open(self, name: str, threads: int, *, graphs: bool) -> Device:
        """The device called `name`, one of `devices`, or the default's where that is empty."""

    @abstractmethod
    def load(self, engine: Path, spec: EngineSpec, device: Device, replaced: Weights = NO_WEIGHTS) -> Engine:
        """Loads a built engine, with other numbers in place of some of its weights. Raises EngineLoadError.

        `replaced`: by the names that the graph's initialisers have, in their types and shapes; an engine that holds its
        weights is given every one that its graph has, or none.
        """


def get_backend(name: str, cache: str | Path | None = None) -> Backend:
    """The backend called `name`; its library is imported here and nowhere earlier.

    It keeps things in the folder `cache`: None for the user's own, an empty name for none at all.
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
    backend.cache = _user_cache() if cache is None else Path(cache) if cache else None
    return backend


def _user_cache() -> Path | None:
    with suppress(RuntimeError):  # nobody whose home is known
        return Path.home() / ".cache" / "hsexport"
    return None
