"""A GPU on which ONNX Runtime runs, and captures CUDA graphs of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import count

import onnxruntime as ort

from hsengines.cuda.device import CudaDevice
from hsengines.cuda.replay import WITHOUT
from hsengines.device import Enqueue, Replay, Tensor
from hsengines.errors import DeviceError, DeviceMemoryError
from hsengines.ort.session import OrtBinding, OrtEngine
from hsengines.spec import EngineSpec

GRAPH = "gpu_graph_id"
"""The entry of a run that names the graph to capture or to replay; "-1" is for neither."""


class OrtCudaDevice(CudaDevice):
    """A GPU on which ONNX Runtime captures its own graphs: one for each binding that is part of a replay."""

    recording = False

    def replay(self, sequence: Sequence[Enqueue]) -> Replay:
        """The calls in order; with `graphs`, each of an engine's is the launch of its graph from now on.

        Like any replay this takes runs beforehand, several for each engine. ONNX Runtime keeps its graphs by thread:
        what one thread has made repeatable, another must not launch. Raises DeviceError.
        """
        if self.graphs:
            self._record(sequence)
        return Replay(sequence)

    def _record(self, sequence: Sequence[Enqueue]) -> None:
        self.recording = True
        try:
            with self._releases.held():
                for enqueue in sequence:
                    enqueue()
                self.synchronize()
        except DeviceMemoryError:
            raise
        except DeviceError as err:
            raise DeviceError(f"a sequence could not be captured as CUDA graphs: {err.message}", WITHOUT) from err
        finally:
            self.recording = False


class OrtCudaEngine(OrtEngine):
    """A session on the GPU; its bindings count from 1, since ONNX Runtime keeps graph 0 for itself."""

    def __init__(self, spec: EngineSpec, session: ort.InferenceSession, device: OrtCudaDevice, placement: str) -> None:
        super().__init__(spec, session)
        self.placement = placement
        self._device = device
        self._graphs = count(1)

    def _binding(self, session: ort.InferenceSession, io: ort.IOBinding, kept: list[Tensor]) -> OrtCudaBinding:
        return OrtCudaBinding(self.spec.name, session, io, kept, self._device, next(self._graphs))


class OrtCudaBinding(OrtBinding):
    """A binding that enqueues without waiting, and has a graph of its own once a replay has recorded it."""

    def __init__(
        self,
        name: str,
        session: ort.InferenceSession,
        io: ort.IOBinding,
        kept: list[Tensor],
        device: OrtCudaDevice,
        graph: int,
    ) -> None:
        super().__init__(name, session, io, kept)
        self._options = _run_options(-1)
        self._device = device
        self._graph = graph
        self._captured = False

    def enqueue(self) -> None:
        """Enqueues the session's run, or the launch of its graph. Raises DeviceError."""
        if self._device.recording and not self._captured:
            self._captured = True
            self._options = _run_options(self._graph)
        super().enqueue()

    def close(self) -> None:
        """Frees the graph, and lets go of the buffers."""
        if self._captured and self._session is not None:
            # A device that has failed frees nothing, and there is nothing to be done about it.
            with suppress(Exception):
                self._session.release_captured_graph(self._graph)
        super().close()


def _run_options(graph: int) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    options.add_run_config_entry(GRAPH, str(graph))
    return options
