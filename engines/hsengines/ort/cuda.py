"""ONNX Runtime on an NVIDIA GPU: builds anywhere, and needs no TensorRT where it runs."""

from __future__ import annotations

import ctypes
import io
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnxruntime as ort

from hsengines.backend import NO_WEIGHTS, Weights
from hsengines.build import BuildOptions
from hsengines.cuda.device import open_device, why_no_cuda
from hsengines.cuda.replay import WITHOUT
from hsengines.device import Device
from hsengines.errors import BackendUnavailable, EngineLoadError
from hsengines.ort.cuda_engine import OrtCudaDevice, OrtCudaEngine
from hsengines.ort.session import OrtBackend, Provider, open_session, replace_weights, session_options
from hsengines.spec import EngineSpec

INSTALL = "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
INSTALL_LIBRARIES = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
NOT_CAPTURABLE = "cannot use the graph capture feature"
"""How ONNX Runtime begins to say that it cannot make a CUDA graph of a network."""
HINT = "build in another precision, with a newer onnxruntime-gpu, or for another backend"
RECORD = "session.record_ep_graph_assignment_info"
"""The session's entry that makes it keep the assignment."""
_SHAPE_OPS = """
    Shape Size Gather Concat Slice Split Unsqueeze Squeeze Reshape Expand Tile Cast Identity Constant Range
    ConstantOfShape Add Sub Mul Div Mod Neg Min Max Floor Ceil ReduceProd ReduceSum Equal Less Greater Not And Or Where
"""
SHAPE_OPS = frozenset(_SHAPE_OPS.split())
"""ONNX Runtime itself puts nodes that compute shapes on the CPU, because what reads a shape is the host."""
SHOWN = 5
# The order and the scopes in which ONNX Runtime itself loads them.
LIBRARIES = (
    ("libonnxruntime_providers_shared.so", ctypes.RTLD_GLOBAL),
    ("libonnxruntime_providers_cuda.so", ctypes.RTLD_LOCAL),
)


class OrtCudaBackend(OrtBackend):
    """For any GPU without a TensorRT install."""

    name = "ort-cuda"
    serves = "any NVIDIA GPU"
    provider = "CUDAExecutionProvider"
    placement = "cuda"

    def why_not_here(self) -> str:
        """What is missing: ONNX Runtime's provider, the GPU, or the libraries between them."""
        return why_no_provider(self.provider) or why_no_cuda() or why_no_libraries()

    def _open(self, name: str, threads: int, *, graphs: bool) -> OrtCudaDevice:
        """The GPU. Raises BackendUnavailable."""
        del name, threads
        if why := why_no_provider(self.provider):
            raise BackendUnavailable(why, INSTALL)
        device = open_device(graphs, OrtCudaDevice)
        assert isinstance(device, OrtCudaDevice)
        return device

    def load(self, engine: Path, spec: EngineSpec, device: Device, replaced: Weights = NO_WEIGHTS) -> OrtCudaEngine:
        """Loads an ONNX file onto the GPU, whole: a node that would run on the CPU is an error, with its name."""
        assert isinstance(device, OrtCudaDevice)
        if why := why_no_libraries():
            raise BackendUnavailable(why, INSTALL_LIBRARIES)
        session = self._session(engine, spec, device, replaced)
        if session.get_providers()[0] != self.provider:
            raise BackendUnavailable(f"ONNX Runtime could not start its {self.provider}", INSTALL_LIBRARIES)
        refuse_strays(engine.name, placement(session), self.provider)
        return OrtCudaEngine(spec, session, device, self.placement)

    def _session(
        self, engine: Path, spec: EngineSpec, device: OrtCudaDevice, replaced: Weights
    ) -> ort.InferenceSession:
        options = _recorded_options()
        replace_weights(options, replaced)
        try:
            return open_session(engine, spec, options, [self._provider(device, graphs=device.graphs)])
        except EngineLoadError as err:
            if NOT_CAPTURABLE not in err.message:
                raise
            # Its own message names no node.
            session = open_session(engine, spec, _recorded_options(), [self._provider(device, graphs=False)])
            nodes = [node for node in placement(session) if node.provider != self.provider]
            blamed = f": {named(nodes)}" if nodes else ""
            raise EngineLoadError(f"{err.message}{blamed}", f"{WITHOUT}, or {HINT}") from err

    def _provider(self, device: OrtCudaDevice, *, graphs: bool) -> Provider:
        """The provider on the device's own stream, computing in the precision that the graph says."""
        return (
            self.provider,
            {
                "device_id": "0",
                "user_compute_stream": str(device.stream),
                "do_copy_in_default_stream": "1",
                "enable_cuda_graph": "1" if graphs else "0",
                # Taking what is asked for, not the next power of two: several sessions share the GPU.
                "arena_extend_strategy": "kSameAsRequested",
                # The exhaustive search would time every kernel of a shape at its first run, in workspace of its own.
                "cudnn_conv_algo_search": "HEURISTIC",
                "use_tf32": "0",
            },
        )

    def _try(self, engine: Path, spec: EngineSpec, options: BuildOptions) -> None:
        """On the GPU, where it is there. Elsewhere on the CPU, which lacks the kernels in bf16: then nothing does."""
        if not self.why_not_here():
            with closing(self.device(graphs=False)) as device:
                self.load(engine, spec, device).close()
        elif options.precision != "bf16":
            plain = session_options()
            plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            open_session(engine, spec, plain, ["CPUExecutionProvider"])


def _recorded_options() -> ort.SessionOptions:
    options = session_options()
    options.add_session_config_entry(RECORD, "1")
    return options


def why_no_provider(provider: str) -> str:
    """Why the installed ONNX Runtime lacks `provider`, in words; empty if it has it."""
    if provider in ort.get_available_providers():
        return ""
    return f"the onnxruntime {ort.__version__} that is installed has no {provider}, which onnxruntime-gpu has"


@cache
def why_no_libraries() -> str:
    """Why ONNX Runtime's CUDA provider cannot be loaded, in the loader's words; empty if it can.

    Asked before a session is opened: ONNX Runtime prints the reason, returns a session on the CPU, and goes on.
    """
    # Finds CUDA's libraries where pip put them, and prints what it does not find.
    with redirect_stdout(io.StringIO()):
        ort.preload_dlls()
    folder = Path(ort.__file__).parent / "capi"
    try:
        for library, scope in LIBRARIES:
            if (folder / library).exists():
                ctypes.CDLL(str(folder / library), mode=scope)
    except OSError as err:
        return f"ONNX Runtime's CUDA provider cannot be loaded: {err}"
    return ""


@dataclass(frozen=True)
class Placed:
    """A node and where it runs."""

    name: str
    op: str
    provider: str


def placement(session: ort.InferenceSession) -> list[Placed]:
    """Every node of a session that was opened with `RECORD`."""
    return [
        Placed(node.name, node.op_type, part.ep_name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]


def refuse_strays(engine: str, nodes: list[Placed], provider: str) -> None:
    """Raises EngineLoadError, naming them, for nodes that compute more than shapes and do not run on `provider`."""
    strays = [node for node in nodes if node.provider != provider and node.op not in SHAPE_OPS]
    if strays:
        raise EngineLoadError(f"{engine} would not run on {provider} whole: {named(strays)}", HINT)


def named(nodes: list[Placed]) -> str:
    """The first few nodes, each with its operator and its place."""
    shown = ", ".join(f"{node.op} '{node.name}' on {node.provider}" for node in nodes[:SHOWN])
    return shown + (f" and {len(nodes) - SHOWN} more" if len(nodes) > SHOWN else "")
