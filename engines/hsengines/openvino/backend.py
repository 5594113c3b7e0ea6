"""OpenVINO on the CPU or a device that it is told, in fp32 or bf16; what it compiled is kept in the backend's cache."""

from __future__ import annotations

import re
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import openvino as ov

from hsengines.backend import NO_WEIGHTS, Binding, Engine, Timings, Weights, check_binding
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
CPU = "CPU"
THREADS = "INFERENCE_NUM_THREADS"
SOURCE = re.compile(r"Exception from \S+:$")


class OpenVinoBackend(GraphBackend):
    """Builds anywhere, runs on every CPU that OpenVINO knows, and on the GPUs and NPUs that it finds.

    On those that compute in the graph's type, which `load` tells; tensors stay in the host's memory.
    """

    name = "openvino"
    serves = "any CPU"

    def __init__(self) -> None:
        self._core = ov.Core()
        self._threads = usable_cores()

    def version(self) -> str:
        """OpenVINO's version, without its build number."""
        return f"openvino {ov.__version__.partition('-')[0]}"

    def devices(self) -> list[str]:
        """As OpenVINO lists them, the CPU first: CPU, GPU or GPU.0 and GPU.1, NPU."""
        return sorted(self._core.available_devices, key=lambda name: name != CPU)

    def _open(self, name: str, threads: int, *, graphs: bool) -> HostDevice:
        """The CPU, or the one called `name`; engines that are loaded afterwards use so many threads of a CPU."""
        del graphs
        self._threads = checked_threads(threads) or usable_cores()
        return HostDevice(name or CPU)

    def load(self, engine: Path, spec: EngineSpec, device: Device, replaced: Weights = NO_WEIGHTS) -> OpenVinoEngine:
        """Compiles an ONNX file for `device` and checks its inputs and outputs against `spec`.

        What it compiled is kept in the backend's cache and taken from there as long as file, device and version are the
        same; what has other weights is not kept, or each of them would be. Raises EngineLoadError, BackendUnavailable
        for a device that does not compute in the graph's type.
        """
        model = self._read(engine, spec)
        _replace_constants(model, replaced)
        try:
            self._check_precision(model, spec.name, device.name)
            return OpenVinoEngine(spec, self._compiled(model, device.name, kept=not replaced))
        except RuntimeError as err:
            told = f"OpenVINO cannot compile '{spec.name}' for {device.name}: {_told(err)}"
            raise EngineLoadError(told, "name another --device, or build for another backend") from err

    def profile(self, engine: Path, inputs: Weights, rounds: int, threads: int = 0) -> Timings:
        """By OpenVINO's own counters, on the CPU."""
        screen(engine)
        settings = self._settings(CPU, checked_threads(threads) or usable_cores()) | {"PERF_COUNT": True}
        model = self._core.compile_model(self._core.read_model(engine), CPU, settings)
        request, runs = model.create_infer_request(), []
        operators: dict[str, float] = defaultdict(float)
        for name, array in inputs.items():
            request.set_tensor(name, _viewed(array))
        request.infer()
        for _ in range(rounds):
            start = perf_counter()
            request.infer()
            runs.append(perf_counter() - start)
            for node in request.get_profiling_info():
                operators[node.node_type] += node.real_time.total_seconds()
        return runs, operators

    def _check_precision(self, model: ov.Model, network: str, device: str) -> None:
        precision, hint = "fp32", "name another --device"
        if _computes_in_bf16(model):
            precision, hint = "bf16", "build with --precision fp32"
        if precision.upper() not in (known := self._capabilities(device)):
            told = f"'{network}' computes in {precision}; for {device} OpenVINO lists {', '.join(known)}"
            raise BackendUnavailable(told, hint)

    def _capabilities(self, device: str) -> list[str]:
        return list(self._core.get_property(device, "OPTIMIZATION_CAPABILITIES"))

    def _compiled(self, model: ov.Model, device: str, *, kept: bool) -> ov.CompiledModel:
        settings = self._settings(device, self._threads)
        if self.cache and kept:
            folder = {"CACHE_DIR": str(self.cache / "openvino")}
            with suppress(RuntimeError, ValueError):  # a folder that cannot be written, a full disk
                return self._core.compile_model(model, device, settings | folder)
        return self._core.compile_model(model, device, settings)

    def _settings(self, device: str, threads: int) -> dict[str, Any]:
        # Types as the graph has them: left to itself it computes fp32 in bf16 where the CPU can.
        settings: dict[str, Any] = {"EXECUTION_MODE_HINT": "ACCURACY", "NUM_STREAMS": 1}
        if THREADS in self._core.get_property(device, "SUPPORTED_PROPERTIES"):
            settings[THREADS] = threads
        return settings

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


def _replace_constants(model: ov.Model, replaced: Weights) -> None:
    """Puts other numbers in place of constants, which are called as the graph's initialisers are."""
    if not replaced:
        return
    found = {node.get_friendly_name(): node for node in model.get_ops() if node.get_type_name() == "Constant"}
    for name, array in replaced.items():
        if name not in found:
            raise EngineLoadError(
                f"the graph has no weight '{name}', which was to be replaced", "build the bundle again"
            )
        # Copied: the model may outlive the array.
        constant = ov.op.Constant(_viewed(array), shared_memory=False)
        for reader in found[name].output(0).get_target_inputs():
            reader.replace_source_output(constant.output(0))


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
    return _viewed(tensor.array)  # type: ignore[attr-defined]  # of a HostDevice, all are HostTensors


def _viewed(array: np.ndarray) -> ov.Tensor:
    if array.dtype.name == "bfloat16":  # which OpenVINO's bindings know by number alone
        return ov.Tensor(array.view(np.uint16), ov.Shape(array.shape), NARROW)
    return ov.Tensor(array, shared_memory=True)
