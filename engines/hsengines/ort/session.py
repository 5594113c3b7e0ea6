"""What ONNX Runtime's backends share: the graph file as the engine, sessions, and bindings by address."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from hsengines.backend import Binding, Engine, Weights, check_binding
from hsengines.cores import multiplies_bytes, usable_cores
from hsengines.device import Tensor, Tensors
from hsengines.errors import DeviceError, DeviceMemoryError, EngineLoadError, HSError, first_line
from hsengines.graph_backend import GraphBackend
from hsengines.screening import screen
from hsengines.spec import EngineSpec, signature

NUMPY_NAMES = {"tensor(float)": "float32", "tensor(double)": "float64"}
"""Where ONNX Runtime's name of a dtype is not numpy's in brackets."""
ONNX_BFLOAT16 = 16
"""ONNX's number for a type that ONNX Runtime does not know by a numpy type."""
NO_ROOM = re.compile(r"allocate memory for requested buffer of size (\d+)")
Provider = str | tuple[str, dict[str, str]]


class OrtBackend(GraphBackend):
    """What both have in common."""

    def version(self) -> str:
        """ONNX Runtime's version."""
        return f"onnxruntime {ort.__version__}"


def open_session(
    engine: Path, spec: EngineSpec, options: ort.SessionOptions, providers: Sequence[Provider]
) -> ort.InferenceSession:
    """Opens an ONNX file and checks it against `spec`. Raises EngineLoadError, DeviceMemoryError without room."""
    session = open_unchecked(engine, options, providers)
    try:
        found = signature(map(_described, session.get_inputs()), map(_described, session.get_outputs()))
    except UnicodeDecodeError as err:
        raise EngineLoadError(f"{engine.name} has a tensor whose name is no text", "build the bundle again") from err
    if wrong := spec.difference(found):
        raise EngineLoadError(f"{engine.name} has {wrong}", "build the bundle again")
    return session


def open_unchecked(engine: Path, options: ort.SessionOptions, providers: Sequence[Provider]) -> ort.InferenceSession:
    """Opens any ONNX file. Raises EngineLoadError, DeviceMemoryError if the weights find no room."""
    operators = screen(engine)
    if QUANTISES in operators:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if CONVOLVES in operators:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        # Its fallback would print to stdout and try again on the CPU.
        return ort.InferenceSession(str(engine), options, providers=list(providers), enable_fallback=0)
    except Exception as err:  # ONNX Runtime raises a dozen types without a common base
        if NO_ROOM.search(str(err)):
            raise device_error(engine.name, err) from err
        raise EngineLoadError(
            f"ONNX Runtime refuses {engine.name}: {first_line(err)}", "build the bundle again"
        ) from err


def _described(node: ort.NodeArg) -> tuple[str, str, int]:
    """Name, numpy's name of the dtype, rank."""
    dtype = NUMPY_NAMES.get(node.type, node.type.removeprefix("tensor(").removesuffix(")"))
    return node.name, dtype, len(node.shape)


def device_error(what: str, err: Exception) -> DeviceError:
    """ONNX Runtime's error as one that callers can act on; `what` failed with it."""
    told = f"'{what}' failed in ONNX Runtime: {first_line(err)}"
    room = NO_ROOM.search(str(err))
    return DeviceMemoryError(told, "ask for smaller shapes", needed_bytes=int(room[1])) if room else DeviceError(told)


class OrtEngine(Engine):
    """An ONNX Runtime session; `placement` is its name for where tensors live."""

    placement = "cpu"

    def __init__(self, spec: EngineSpec, session: ort.InferenceSession) -> None:
        self.spec = spec
        self._session: ort.InferenceSession | None = session

    def bind(self, inputs: Tensors, outputs: Tensors, *, beside: bool = False) -> OrtBinding:
        """Binds by address; the binding keeps the tensors alive. A session has the one stream it was opened with."""
        del beside
        if self._session is None:
            raise EngineLoadError(f"engine '{self.spec.name}' is closed")
        check_binding(self.spec, inputs, outputs)
        io = self._session.io_binding()
        for name, tensor in inputs.items():
            io.bind_input(name, self.placement, 0, *_memory(tensor))
        for name, tensor in outputs.items():
            io.bind_output(name, self.placement, 0, *_memory(tensor))
        return self._binding(self._session, io, [*inputs.values(), *outputs.values()])

    def close(self) -> None:
        """Lets the session go."""
        self._session = None

    def _binding(self, session: ort.InferenceSession, io: ort.IOBinding, kept: list[Tensor]) -> OrtBinding:
        return OrtBinding(self.spec.name, session, io, kept)


def _memory(tensor: Tensor) -> tuple[Any, tuple[int, ...], int]:
    """Element type, shape and address, as a binding wants them."""
    kind = ONNX_BFLOAT16 if tensor.dtype.name == "bfloat16" else tensor.dtype.type
    return kind, tensor.shape, tensor.address


class OrtBinding(Binding):
    """A session with every input and output bound."""

    def __init__(self, name: str, session: ort.InferenceSession, io: ort.IOBinding, kept: list[Tensor]) -> None:
        self._name = name
        self._session: ort.InferenceSession | None = session
        self._run = session.run_with_iobinding
        self._io: ort.IOBinding | None = io
        self._kept = kept
        self._options: ort.RunOptions | None = None

    def enqueue(self) -> None:
        """Runs the session once. Raises DeviceError."""
        try:
            self._run(self._io, self._options)
        except HSError:
            raise
        except Exception as err:  # see open_session
            raise device_error(self._name, err) from err

    def close(self) -> None:
        """Lets the session and the tensors go."""
        self._session = self._io = None
        self._run = _closed
        self._kept = []


def _closed(*_: object) -> None:
    raise EngineLoadError("a binding that is closed cannot be enqueued")


SPIN_MICROSECONDS = "20"
"""How long a thread without work looks for some before it sleeps.

Longer than from most operators of a step to the next, so that a step on cores of its own hardly ever wakes one (with 10
it took 1.03 to 1.06 times as long, without any 1.2 to 1.4), and far shorter than ONNX Runtime's own: where another
process wants a core, or the next engine of the step, a thread that spins takes it from those that work. Beside one busy
process a picture took 1.3 to 1.4 times as long as without; with 25 it was 1.7 to 1.9, of its own accord 2.1.
"""


@cache
def _share_arena() -> None:
    """Registers one arena for what the engines of the process need on the CPU while they run.

    They run in turns, but an arena of its own would hold for each engine what its largest shape ever took: of 1,000
    pictures of random shapes the demo bundle's engines kept 616 MB so, and 391 MB together.
    """
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(info, ort.OrtArenaCfg({}))


def replace_weights(options: ort.SessionOptions, replaced: Weights) -> None:
    """Has sessions that are opened with `options` take these numbers for those in the graph's own file of weights.

    ONNX Runtime puts them in before it optimises, so that what it folds or packs of them follows; it copies them.
    """
    if replaced:
        values = [_value_of(array) for array in replaced.values()]
        options.add_external_initializers(list(replaced), values)


def _value_of(array: np.ndarray) -> ort.OrtValue:
    if array.dtype.name == "bfloat16":  # which its bindings know by number alone
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), ONNX_BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


QUANTISES = "QuantizeLinear"
"""The operator in front of products of 8 by 8 bits.

Their sums leave 16 bits, which is what CPUs have that do not multiply and add bytes in one step: ten times the error,
unless ONNX Runtime is told to mind. It then takes no 8-bit weights beside floats.
"""
CONVOLVES = "Conv"
"""The operator without a kernel for 8-bit weights beside floats: numbers are made of them when a graph is opened."""
FLOATS, INTEGERS = "1", "4"
"""ONNX Runtime's numbers for what products with weights of few bits are computed in.

Its integer kernels are for CPUs that multiply and add bytes in one step; elsewhere they took 1.3 times as long.
"""
BLOCK = "64"
"""Numbers that such a product sums before it scales them, where a weight has one scale a row.

With ONNX Runtime's own 32 a step took 1.08 times as long as with fp32 weights, with 64 as long as these; more sum no
faster, and round what is multiplied with coarser.
"""


def session_options(threads: int = 0) -> ort.SessionOptions:
    """Of a session with a pool of `threads`, 0 for all cores that the process may use, in the shared arena."""
    usable, options = usable_cores(), ort.SessionOptions()
    _share_arena()
    # Of its own accord it takes the machine's cores, be they this process's or not.
    options.intra_op_num_threads = threads or (0 if usable == os.cpu_count() else usable)
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry(
        "session.qdq_matmulnbits_accuracy_level", INTEGERS if multiplies_bytes() else FLOATS
    )
    options.add_session_config_entry("session.qdq_matmulnbits_block_size", BLOCK)
    options.log_severity_level = 3
    return options
