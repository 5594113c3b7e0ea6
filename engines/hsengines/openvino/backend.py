"""OpenVINO on the CPU, in fp32 or bf16; what it compiled is kept in the backend's cache."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from hsengines.backend import Binding, Engine, check_binding
from hsengines.build import BuildOptions
from hsengines.cores import checked_threads, usable_cores
from hsengines.device import Device, HostDevice, Tensor, Tensors
from hsengines.errors import BackendUnavailable, DeviceError, EngineLoadError
from hsengines.graph_backend import GraphBackend
from hsengines.screening import screen
from hsengines.spec import EngineSpec, signature

TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i32": "int32", "i64": "int64", "u8": "uint8"}
"""OpenVINO's names of element types, and numpy's."""
NARROW = ov.Type.bf16
SOURCE = re.compile(r"Exception from \S+:$")


class OpenVinoBackend(GraphBackend):
    """Builds anywhere, runs on every CPU that OpenVINO knows; in bf16 on those that have it, which `load` tells."""

    name = "openvino"
    serves = "any CPU"

    def __init__(self) -> None:
        self._core = ov.Core()
        self._threads = usable_cores()

    def version(self) -> str:
        """OpenVINO's version, without its build number."""
        return f"openvino {ov.__version__.partition('-')[0]}"

    def device(self, threads: int = 0, *, graphs: bool = True) -> HostDevice:
        """The CPU; all engines that are loaded afterwards use so many threads."""
        del graphs
        self._threads = checked_threads(threads) or usable_cores()
        return HostDevice()

    def load(self, engine: Path, spec: EngineSpec, device: Device) -> OpenVinoEngine:
        """Compiles an ONNX file and checks its inputs and outputs against `spec`.

        What it compiled is kept in the backend's cache and taken from there as long as file, CPU and version are the
        same. Raises EngineLoadError, BackendUnavailable for bf16 on a CPU without it.
        """
        del device
        model = self._read(engine, spec)
        if "BF16" not in self._capabilities() and _computes_in_bf16(model):
            told = f"'{spec.name}' computes in bf16; this CPU's flags have neither avx512_bf16 nor amx_bf16"
            raise BackendUnavailable(told, "build with --precision fp32")
        settings: dict[str, Any] = {
            # Types as the graph has them: left to itself it computes fp32 in bf16 where the CPU can.
            "EXECUTION_MODE_HINT": "ACCURACY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self._threads,
        }
        if self.cache:
            kept = {"CACHE_DIR": str(self.cache / "openvino")}
            with suppress(RuntimeError, ValueError):  # a folder that cannot be written, a full disk
                return OpenVinoEngine(spec, self._core.compile_model(model, "CPU", settings | kept))
        try:
            return OpenVinoEngine(spec, self._core.compile_model(model, "CPU", settings))
        except RuntimeError as err:
            raise _refused(engine, err) from err

    def _capabilities(self) -> list[str]:
        return list(self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))

    def _read(self, engine: Path, spec: EngineSpec) -> ov.Model:
        screen(engine)
        try:
            model = self._core.read_model(engine)
        except RuntimeError as err:
            raise _refused(engine, err) from err
        if wrong := spec.difference(signature(map(_described, model.inputs), map(_described, model.outputs))):
            raise EngineLoadError(f"{engine.name} has {wrong}", "build the bundle again")
        return model

    def _try(self, engine: Path, spec: EngineSpec, options: BuildOptions) -> None:
        del options
        self._read(engine, spec)


def _computes_in_bf16(model: ov.Model) -> bool:
    return any(output.get_element_type() == NARROW for node in model.get_ops() for output in node.outputs())


def _refused(engine: Path, err: RuntimeError) -> EngineLoadError:
    return EngineLoadError(f"OpenVINO refuses {engine.name}: {_told(err)}", "build the bundle again")


def _told(err: RuntimeError) -> str:
    """What an error says, without the places in OpenVINO's source that it begins with."""
    lines = (line.strip() for line in str(err).splitlines())
    return next((line for line in lines if line and not SOURCE.match(line)), "it does not say why")


def _described(port: Any) -> tuple[str, str, int]:
    """Name, numpy's name of the dtype, rank."""
    kind = port.element_type.get_type_name()
    return port.get_any_name(), TYPES.get(kind, kind), len(port.partial_shape)


class OpenVinoEngine(Engine):
    """A compiled model."""

    def __init__(self, spec: EngineSpec, model: ov.CompiledModel) -> None:
        self.spec = spec
        self._model: ov.CompiledModel | None = model

    def bind(self, inputs: Tensors, outputs: Tensors, *, beside: bool = False) -> OpenVinoBinding:
        """Binds by address; the binding keeps the tensors alive."""
        del beside
        if self._model is None:
            raise EngineLoadError(f"engine '{self.spec.name}' is closed")
        check_binding(self.spec, inputs, outputs)
        return OpenVinoBinding(self.spec.name, self._model.create_infer_request(), {**inputs, **outputs})

    def close(self) -> None:
        """Lets the model go."""
        self._model = None


class OpenVinoBinding(Binding):
    """A request with every input and output bound."""

    def __init__(self, name: str, request: ov.InferRequest, tensors: Tensors) -> None:
        self._name = name
        self._request: ov.InferRequest | None = request
        self._kept = tensors
        for tensor_name, tensor in tensors.items():
            request.set_tensor(tensor_name, _shared(tensor))

    def enqueue(self) -> None:
        """Runs the model once. Raises DeviceError."""
        if self._request is None:
            raise EngineLoadError("a binding that is closed cannot be enqueued")
        try:
            self._request.infer(share_outputs=True)
        except RuntimeError as err:
            raise DeviceError(f"'{self._name}' failed in OpenVINO: {_told(err)}") from err

    def close(self) -> None:
        """Lets the request and the tensors go."""
        self._request, self._kept = None, {}


def _shared(tensor: Tensor) -> ov.Tensor:
    """OpenVINO's view of the same memory."""
    array = tensor.array  # type: ignore[attr-defined]  # of a HostDevice, all are HostTensors
    if tensor.dtype.name == "bfloat16":  # which OpenVINO's bindings know by number alone
        return ov.Tensor(array.view(np.uint16), ov.Shape(array.shape), NARROW)
    return ov.Tensor(array, shared_memory=True)
