"""Backends whose engines are the graphs themselves: kernels are picked, or made, when an engine is loaded."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

from hsengines.backend import Backend
from hsengines.build import BuildOptions, BuildProgress, EngineFiles
from hsengines.files import link_graph
from hsengines.spec import EngineSpec


class GraphBackend(Backend[BuildOptions]):
    """Takes ONNX files as engines, once its library has accepted them."""

    def build(
        self, onnx: Path, spec: EngineSpec, options: BuildOptions, out: Path, progress: BuildProgress | None = None
    ) -> EngineFiles:
        """Takes the ONNX file as the engine, once the library has accepted every node of it.

        What the library makes of it is not stored: it would hold kernels picked for the building machine. `out` may
        share the file and its weights with `onnx`, which must not be edited afterwards.
        """
        del progress
        self.check_options(options)
        engine, *weights = link_graph(onnx, out)
        self._try(engine, spec, options)
        return EngineFiles(engine, tuple(weights))

    @abstractmethod
    def _try(self, engine: Path, spec: EngineSpec, options: BuildOptions) -> None:
        """Raises EngineLoadError for a graph that the library does not accept."""
