"""ONNX Runtime on the CPU: fp32, builds and runs anywhere."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from hsengines.backend import Backend, Binding, BuildOptions, Device, Engine, EngineFiles, Tensor
from hsengines.binding import check_binding
from hsengines.errors import EngineBuildError, EngineLoadError
from hsengines.host import HostDevice, HostTensor
from hsengines.link import link_or_copy
from hsengines.spec import EngineSpec, TensorSpec

PROVIDERS = ["CPUExecutionProvider"]
NUMPY_NAMES = {"tensor(float)": "float32", "tensor(double)": "float64"}
"""Where ONNX Runtime's name of a dtype is not numpy's in brackets."""

# One pool for all engines of the process. Pools of their own would keep spinning for a while after each run,
# and the next engine of the step would find the cores taken.
_pool_threads: int | None = None


def _use_shared_pool(threads: int) -> None:
    """Sizes the process-wide pool once; ONNX Runtime cannot resize it later."""
    global _pool_threads
    if _pool_threads is None:
        ort.set_global_thread_pool_sizes(threads, 1)
        _pool_threads = threads
    elif threads not in (0, _pool_threads):
        kept = _pool_threads or "all"
        warnings.warn(f"{threads} threads asked for, but this process's engines already share {kept}", stacklevel=3)


def _session_options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    options.log_severity_level = 3
    return options


def _session(model: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(model), _session_options(), providers=PROVIDERS)


class OrtCpuBackend(Backend):
    """The embedded default and the accuracy reference."""

    name = "ort-cpu"

    def version(self) -> str:
        """ONNX Runtime's version."""
        return f"onnxruntime {ort.__version__}"

    def check_options(self, options: BuildOptions) -> None:
        """fp32 is all that ONNX Runtime's CPU kernels have throughout."""
        if options.precision != "fp32":
            raise EngineBuildError(
                f"backend 'ort-cpu' builds fp32, not {options.precision}",
                "leave --precision out or name another backend",
            )

    def build(self, onnx: Path, spec: EngineSpec, options: BuildOptions, out: Path) -> EngineFiles:
        """Takes the ONNX file as the engine, once ONNX Runtime has accepted every node of it.

        The optimised graph is not stored: it would hold kernels picked for the building machine's CPU. `out` may share
        the file and its weights with `onnx`, which must not be edited afterwards.
        """
        self.check_options(options)
        data = onnx.with_name(onnx.name + ".data")
        sources = [onnx, data] if data.exists() else [onnx]
        engine, *weights = (link_or_copy(source, out / source.name) for source in sources)
        self.load(engine, spec, self.device()).close()
        return EngineFiles(engine, tuple(weights))

    def device(self, threads: int = 0) -> HostDevice:
        """The CPU. The first call of the process decides how many threads all engines share."""
        _use_shared_pool(threads)
        return HostDevice(threads)

    def load(self, engine: Path, spec: EngineSpec, device: Device) -> OrtEngine:
        """Loads an ONNX file and checks its inputs and outputs against `spec`."""
        del device
        _use_shared_pool(0)
        try:
            session = _session(engine)
        except Exception as err:  # ONNX Runtime raises a dozen types without a common base
            raise EngineLoadError(
                f"ONNX Runtime refuses {engine.name}: {_first_line(err)}", "build the bundle again"
            ) from err
        _check_tensors(engine.name, session.get_inputs(), spec.inputs)
        _check_tensors(engine.name, session.get_outputs(), spec.outputs)
        return OrtEngine(spec, session)


def _check_tensors(engine: str, nodes: list[ort.NodeArg], specs: tuple[TensorSpec, ...]) -> None:
    """Raises EngineLoadError where names, dtypes or ranks differ from the spec."""
    found, wanted = {node.name: node for node in nodes}, {tensor.name: tensor for tensor in specs}
    if found.keys() != wanted.keys():
        raise EngineLoadError(
            f"{engine} has other tensors than its spec: {sorted(found.keys() ^ wanted.keys())}",
            "build the bundle again",
        )
    for name, tensor in wanted.items():
        kind = found[name].type
        dtype, rank = NUMPY_NAMES.get(kind, kind.removeprefix("tensor(").removesuffix(")")), len(found[name].shape)
        if (dtype, rank) != (tensor.dtype, len(tensor.shape)):
            raise EngineLoadError(
                f"{engine}, tensor '{name}': found {dtype} of {rank} dimensions, "
                f"expected {tensor.dtype} of {len(tensor.shape)}",
                "build the bundle again",
            )


def _first_line(err: Exception) -> str:
    return str(err).strip().splitlines()[0]


class OrtEngine(Engine):
    """An ONNX Runtime session."""

    def __init__(self, spec: EngineSpec, session: ort.InferenceSession) -> None:
        self.spec = spec
        self._session: ort.InferenceSession | None = session

    def bind(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> OrtBinding:
        """Binds by address; the binding keeps the tensors alive."""
        if self._session is None:
            raise EngineLoadError(f"engine '{self.spec.name}' is closed")
        check_binding(self.spec, inputs, outputs)
        io = self._session.io_binding()
        for name, tensor in inputs.items():
            assert isinstance(tensor, HostTensor)
            io.bind_input(name, "cpu", 0, tensor.dtype.type, tensor.shape, tensor.address)
        for name, tensor in outputs.items():
            assert isinstance(tensor, HostTensor)
            io.bind_output(name, "cpu", 0, tensor.dtype.type, tensor.shape, tensor.address)
        return OrtBinding(self._session, io, [*inputs.values(), *outputs.values()])

    def close(self) -> None:
        """Lets the session go."""
        self._session = None


class OrtBinding(Binding):
    """A session with every input and output bound."""

    def __init__(self, session: ort.InferenceSession, io: ort.IOBinding, kept: list[Tensor]) -> None:
        self._run = session.run_with_iobinding
        self._io = io
        self._kept = kept

    def enqueue(self) -> None:
        """Runs to the end: on a CPU nothing is asynchronous."""
        self._run(self._io)
