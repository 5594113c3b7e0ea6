"""How execution contexts are made: the memory they work in is always ours, shared by all that run on one stream."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from hsengines.files import read_if_there, replace_file

_PROBE_BYTES = 2**20


class Contexts:
    """An engine, the runtime it belongs to, and how its contexts are made."""

    def __init__(self, library: Any, runtime: Any, engine: Any) -> None:
        self._library = library
        self._runtime = runtime
        self._engine = engine

    def make(self) -> Any:
        """A context without memory of its own, or None."""
        return self._engine.create_execution_context(self._library.ExecutionContextAllocationStrategy.USER_MANAGED)

    def close(self) -> None:
        """Frees the engine's weights; the contexts must be gone."""
        self._engine = None
        self._runtime = None


class CompilingContexts(Contexts):
    """Contexts of TensorRT-RTX, which compiles kernels for the GPU at hand when it first needs them.

    Kernels are compiled before they run and never swapped later (EAGER), for a captured graph would keep the old ones;
    and TensorRT-RTX captures no graphs of its own, since whole segments are captured here. What was compiled is kept
    in `cache` for the next process.
    """

    def __init__(self, library: Any, runtime: Any, engine: Any, cache: Path | None) -> None:
        super().__init__(library, runtime, engine)
        self._path = cache
        self._config = engine.create_runtime_config()
        self._config.set_execution_context_allocation_strategy(library.ExecutionContextAllocationStrategy.USER_MANAGED)
        self._config.cuda_graph_strategy = library.CudaGraphStrategy.DISABLED
        kernels = library.DynamicShapesKernelSpecializationStrategy.EAGER
        self._config.dynamic_shapes_kernel_specialization_strategy = kernels
        self._kept = read_if_there(cache) if cache else b""
        self._cache = self._attached() if cache else None

    def make(self) -> Any:
        """A context without memory of its own, or None."""
        return self._engine.create_execution_context(self._config)

    def close(self) -> None:
        """Writes the compiled kernels, if there are new ones; a full disk is no reason to fail."""
        if self._cache is not None and self._path is not None:
            with suppress(OSError):
                compiled = bytes(self._cache.serialize() or b"")
                if compiled and compiled != self._kept:
                    replace_file(self._path, compiled)
        self._cache = self._config = None
        super().close()

    def _attached(self) -> Any:
        """A runtime cache with what an earlier process left; one of another GPU or version is refused and replaced."""
        cache = self._config.create_runtime_cache()
        if self._kept and not cache.deserialize(self._kept):
            self._kept = b""
        return cache if self._config.set_runtime_cache(cache) else None


def kernels_path(library: Any, plan: Path, cache: Path) -> Path:
    """Where the compiled kernels of `plan` are kept in the folder `cache`.

    The name follows the plan's size and ends, for reading all of it would cost more than the kernels; two plans of one
    name would only lose time.
    """
    with plan.open("rb") as file:
        digest = hashlib.sha256(file.read(_PROBE_BYTES))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _PROBE_BYTES))
        digest.update(file.read())
    digest.update(str(size).encode())
    return cache / "runtime-cache" / library.__version__ / f"{plan.stem}-{digest.hexdigest()[:16]}.kernels"
