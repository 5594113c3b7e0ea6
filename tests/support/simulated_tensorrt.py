"""A stand-in for `tensorrt_rtx` (or `tensorrt`) that computes with ONNX Runtime over a simulated GPU's memory.

Its classes offer no name, and take no attribute, that the real `tensorrt_rtx` lacks; enumerations and the classes that
callers derive from are the real ones. Calls go into the simulated CUDA's log, in one order with CUDA's own. It insists
on what TensorRT wants: profile, shapes, addresses and memory set before a run, nothing used after it is gone.
"""

import json
import sys
import weakref
from dataclasses import replace
from types import SimpleNamespace

import onnx
import onnxruntime as ort
import pytest
import tensorrt_rtx as real
from simulated_cuda import SimulatedCudart, install
from simulated_tensorrt_builder import BUILDER_CLASSES, HostMemory, Simulated, embedded, plan_header, plan_parts

from hsengines.ort.session import session_options
from hsengines.traits import BACKENDS

NUMPY = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}
RTX_ALONE = {"Runtime": ("get_engine_validity",), "ICudaEngine": ("create_runtime_config",)}
"""What this simulation takes away to play `tensorrt`."""


class SimulatedTensorRT:
    """The module. `refuse` names calls that return False or None once; `violations` what was destroyed out of order.

    `joins`: whether building joins all weights, so that none can be refitted without the others.
    """

    def __init__(self, cudart, version=real.__version__, classic=False):
        self.cudart = cudart
        self.classic = classic
        self.refuse = set()
        self.violations = []
        self.live = {"contexts": 0, "engines": 0}
        self.joins = False
        self.__version__ = version
        for kind in (*BUILDER_CLASSES, Runtime, Engine, Context, Config, Cache, Refitter, OnnxRefitter, Inspector):
            setattr(self, kind.real.__name__, made_for(self, kind))

    def __getattr__(self, name):
        """The real module's enumerations, and the classes to derive from."""
        return getattr(real, name)

    def told(self, name, *arguments):
        """Logs a call; whether it was told to fail."""
        self.cudart.log.append((name, *arguments))
        if name not in self.refuse:
            return False
        self.refuse.remove(name)
        return True

    @property
    def architecture(self):
        """The GPU's compute capability."""
        major, minor = self.cudart.capability
        return 10 * major + minor


def made_for(library, kind):
    """`kind` for one simulation; the real class decides which names it may have."""
    gone = RTX_ALONE.get(kind.real.__name__, ()) if library.classic else ()
    for name in vars(kind):
        assert name.startswith("_") or name == "real" or hasattr(kind.real, name), f"{kind.real} has no {name}"
    bases = (kind,)
    if gone:
        bases = (type(kind.__name__, kind.__bases__, {k: v for k, v in vars(kind).items() if k not in gone}),)
    return type(kind.__name__, bases, {"library": library})


class Runtime(Simulated):
    real = real.Runtime

    def __init__(self, logger):
        self._logger = logger

    def get_engine_validity(self, buffer):
        facts, diagnosis = plan_header(bytes(buffer)), real.EngineInvalidityDiagnostics
        if facts is None:
            return real.EngineValidity.INVALID, int(diagnosis.MALFORMED_ENGINE)
        bits = int(diagnosis.VERSION_MISMATCH) * (facts["version"] != self.library.__version__)
        bits |= int(diagnosis.UNSUPPORTED_CC) * (self.library.architecture not in facts["architectures"])
        return (real.EngineValidity.INVALID if bits else real.EngineValidity.VALID), bits

    def deserialize_cuda_engine(self, buffer):
        if self.library.told("deserialize_cuda_engine"):
            self._logger.log(real.ILogger.ERROR, "Error Code 2: OutOfMemory (Requested size was 5 bytes.)")
            return None
        facts, graph = plan_parts(bytes(buffer))
        if facts is None:
            self._logger.log(
                real.ILogger.ERROR, "Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed."
            )
            return None
        if facts["version"] != self.library.__version__:
            versions = f"expecting library version {self.library.__version__} got {facts['version']}, please rebuild."
            self._logger.log(
                real.ILogger.ERROR, f"The engine plan file is not compatible with this version: {versions}"
            )
            return None
        return self.library.ICudaEngine(facts, graph, self._logger)


class Engine(Simulated):
    real = real.ICudaEngine

    def __init__(self, facts, graph, logger):
        self._facts, self._logger = facts, logger
        self._state = SimpleNamespace(alive=True, contexts=0)
        self._session = None
        self._graph = graph
        if not facts["stripped"]:
            self._compile(graph)
        self.library.live["engines"] += 1
        weakref.finalize(self, destroyed, self.library, self._state)

    def _compile(self, graph):
        self._session = ort.InferenceSession(graph, session_options(), providers=["CPUExecutionProvider"])

    @property
    def num_io_tensors(self):
        return len(self._facts["tensors"])

    @property
    def num_optimization_profiles(self):
        return max(1, len(self._facts["profiles"]))

    @property
    def refittable(self):
        return self._facts["refittable"]

    @property
    def streamable_weights_size(self):
        return 1000 if self._facts["streaming"] else 0

    def get_weight_streaming_automatic_budget(self):
        return 500

    @property
    def weight_streaming_budget_v2(self):
        return self._budget

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, budget):
        assert not self._state.contexts, "the budget is set before there are contexts"
        self._budget = budget
        self.library.told("weight_streaming_budget_v2", budget)

    def get_tensor_name(self, index):
        return list(self._facts["tensors"])[index]

    def get_tensor_mode(self, name):
        return getattr(real.TensorIOMode, self._facts["tensors"][name]["mode"])

    def get_tensor_dtype(self, name):
        return getattr(real.DataType, self._facts["tensors"][name]["dtype"])

    def get_tensor_shape(self, name):
        return tuple(self._facts["tensors"][name]["shape"])

    def create_engine_inspector(self):
        return self.library.EngineInspector(self._facts)

    def create_runtime_config(self):
        return self.library.IRuntimeConfig()

    def create_execution_context(self, given):
        assert self._session is not None, "a stripped engine is refitted before it runs"
        strategy = given._strategy if isinstance(given, Config) else given
        assert strategy == real.ExecutionContextAllocationStrategy.USER_MANAGED
        assert self.library.classic != isinstance(given, Config)
        if self.library.told("create_execution_context"):
            self._logger.log(real.ILogger.ERROR, "Error Code 2: OutOfMemory (Requested size was 5 bytes.)")
            return None
        return self.library.IExecutionContext(self, given)


class Context(Simulated):
    real = real.IExecutionContext

    def __init__(self, engine, config):
        # The real context leans on its engine without owning it, and a captured graph on its context.
        self._facts, self._session, self._logger = engine._facts, engine._session, engine._logger
        self._engine = engine._state
        self._cache = getattr(config, "_cache", None)
        self._state = SimpleNamespace(alive=True)
        self._profile, self._shapes, self._addresses, self._memory = None, {}, {}, None
        self._engine.contexts += 1
        self.library.live["contexts"] += 1
        weakref.finalize(self, context_destroyed, self.library, self._state, self._engine)

    def set_optimization_profile_async(self, index, stream):
        self._profile, self._shapes = index, {}
        return not self.library.told("set_optimization_profile_async", index)

    def set_input_shape(self, name, shape):
        assert self._profile is not None, "the profile is chosen before the shapes"
        if self.library.told("set_input_shape", name, tuple(shape)):
            return self._refusal(f"Error Code 3: API Usage Error (no shape {shape} for {name})")
        ranges = self._facts["profiles"][self._profile][name] if self._facts["profiles"] else None
        if ranges and not all(a <= s <= b for a, s, b in zip(ranges[0], shape, ranges[2], strict=True)):
            return self._refusal(f"Error Code 3: API Usage Error (shape {shape} of {name} is outside its profile)")
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name, address):
        if self.library.told("set_tensor_address", name) or not address:
            return self._refusal(f"Error Code 3: API Usage Error (null address for {name})")
        if address % 256:
            return self._refusal(f"Error Code 3: API Usage Error (address of {name} is not aligned to 256 bytes)")
        self._addresses[name] = address
        return name in self._facts["tensors"]

    def infer_shapes(self):
        self.library.told("infer_shapes")
        return [name for name in self._inputs() if name not in self._shapes]

    def update_device_memory_size_for_shapes(self):
        self.library.told("update_device_memory_size_for_shapes")
        assert not self.infer_shapes(), "shapes are set before memory is asked for"
        return self._needed()

    def set_device_memory(self, memory, size):
        self.library.told("set_device_memory", size)
        assert memory % 256 == 0
        assert size >= self._needed()
        self._memory = (memory, size)

    def execute_async_v3(self, stream):
        if "execute_async_v3" in self.library.refuse:
            self.library.refuse.remove("execute_async_v3")
            return self._refusal(
                "IExecutionContext::enqueueV3: Error Code 3: API Usage Error (nothing will come of it)"
            )
        assert self._memory, "memory is given before a run"
        assert self._addresses.keys() == self._facts["tensors"].keys(), "every tensor has an address before a run"
        assert not [name for name in self._inputs() if name not in self._shapes]
        work = run_of(self.library.cudart, self._facts, self._session, self._shapes, self._addresses, self._memory)
        alive = (self._state, self._engine)
        error, *_ = self.library.cudart.on_stream(stream, lambda: work(*alive), "execute_async_v3")
        if self._cache is not None:
            self._cache._kernels.add(json.dumps([self._facts["name"], sorted(self._shapes.items())]))
        return not error

    def _inputs(self):
        return [name for name, tensor in self._facts["tensors"].items() if tensor["mode"] == "INPUT"]

    def _needed(self):
        return 64 * sum(sum(shape) for shape in self._shapes.values())

    def _refusal(self, text):
        self._logger.log(real.ILogger.ERROR, text)
        return False


def run_of(cudart, facts, session, shapes, addresses, memory):
    """The work of one run with everything as it is now, as CUDA would capture it."""
    shapes, addresses = dict(shapes), dict(addresses)
    dtypes = {name: NUMPY[tensor["dtype"]] for name, tensor in facts["tensors"].items()}

    def work(context, engine):
        assert context.alive, "a run whose context is gone"
        assert engine.alive, "a run whose engine is gone"
        # Whatever shares the memory finds nothing of use in it.
        cudart.array(memory[0], (memory[1],), "uint8")[:] = 0xA5
        feeds = {name: cudart.array(addresses[name], shapes[name], dtypes[name]).copy() for name in shapes}
        names = [output.name for output in session.get_outputs()]
        for name, result in zip(names, session.run(names, feeds), strict=True):
            cudart.array(addresses[name], result.shape, result.dtype)[...] = result

    return work


class Config(Simulated):
    real = real.IRuntimeConfig

    def __init__(self):
        self._strategy, self._cache = None, None

    def set_execution_context_allocation_strategy(self, strategy):
        self._strategy = strategy

    @property
    def cuda_graph_strategy(self):
        return self._graphs

    @cuda_graph_strategy.setter
    def cuda_graph_strategy(self, strategy):
        self._graphs = strategy
        self.library.told("cuda_graph_strategy", strategy.name)

    @property
    def dynamic_shapes_kernel_specialization_strategy(self):
        return self._kernels

    @dynamic_shapes_kernel_specialization_strategy.setter
    def dynamic_shapes_kernel_specialization_strategy(self, strategy):
        self._kernels = strategy
        self.library.told("dynamic_shapes_kernel_specialization_strategy", strategy.name)

    def create_runtime_cache(self):
        return self.library.IRuntimeCache()

    def set_runtime_cache(self, cache):
        self._cache = cache
        return not self.library.told("set_runtime_cache")


class Cache(Simulated):
    real = real.IRuntimeCache

    def __init__(self):
        self._kernels = set()

    def serialize(self):
        return HostMemory(b"kernels" + json.dumps(sorted(self._kernels)).encode())

    def deserialize(self, blob):
        if not bytes(blob).startswith(b"kernels"):
            return False
        self._kernels |= set(json.loads(bytes(blob)[len(b"kernels") :]))
        return True


class Refitter(Simulated):
    real = real.Refitter

    def __init__(self, engine, logger):
        self._engine, self._logger, self._graph, self._set = engine, logger, engine._graph, {}

    def get_all_weights(self):
        return [tensor.name for tensor in onnx.load_from_string(self._graph).graph.initializer]

    def get_missing_weights(self):
        """As where the builder joined everything: all are missing once one is set."""
        return sorted(set(self.get_all_weights()) - self._set.keys()) if self._set and self.library.joins else []

    def set_named_weights(self, name, weights):
        assert isinstance(weights, real.Weights)
        if self.library.told("set_named_weights", name):
            return False
        self._set[name] = weights
        return name in self.get_all_weights()

    def _with_weights(self):
        model = onnx.load_from_string(self._graph)
        for tensor in model.graph.initializer:
            if tensor.name in self._set:
                # Read now and no earlier, as the library does.
                weights = self._set[tensor.name]
                assert weights.size * weights.dtype.itemsize == len(tensor.raw_data)
                tensor.raw_data = weights.numpy().tobytes()
        return model.SerializeToString()

    def refit_cuda_engine(self):
        if self.library.told("refit_cuda_engine"):
            self._logger.log(real.ILogger.ERROR, "Error Code 4: Internal Error (weights are missing)")
            return False
        self._engine._compile(self._with_weights())
        return True


class OnnxRefitter(Simulated):
    real = real.OnnxParserRefitter

    def __init__(self, refitter, logger):
        self._refitter = refitter

    def refit_from_file(self, path):
        self._refitter._graph = embedded(path)
        return not self.library.told("refit_from_file")


class Inspector(Simulated):
    real = real.EngineInspector

    def __init__(self, facts):
        self._facts = facts

    def get_engine_information(self, format):
        assert format == real.LayerInformationFormat.JSON
        return json.dumps({"Layers": self._facts["inspected"], "Bindings": list(self._facts["tensors"])})


def destroyed(library, engine):
    """Notes the end of an engine."""
    engine.alive = False
    library.live["engines"] -= 1
    library.cudart.log.append(("engine destroyed",))
    if engine.contexts:
        library.violations.append(f"an engine is destroyed under {engine.contexts} contexts")


def context_destroyed(library, context, engine):
    """Notes the end of a context."""
    context.alive = False
    engine.contexts -= 1
    library.live["contexts"] -= 1
    library.cudart.log.append(("context destroyed",))


def simulated_gpu(monkeypatch, classic=False, **cudart):
    """A simulated GPU with TensorRT-RTX on it in place of the real ones: (SimulatedCudart, SimulatedTensorRT).

    `get_backend("tensorrt-rtx")` (or "tensorrt" with `classic`) then gives a backend that runs on it, fp32 included.
    """
    simulated_cudart = install(monkeypatch, SimulatedCudart(**cudart))
    library = SimulatedTensorRT(simulated_cudart, classic=classic)
    monkeypatch.setattr("hsengines.backend._user_cache", lambda: None)
    name = "tensorrt" if classic else "tensorrt-rtx"
    monkeypatch.setattr(f"{__name__}._installed", library)
    monkeypatch.setitem(BACKENDS, name, replace(BACKENDS[name], backend=f"{__name__}:installed_backend"))
    return simulated_cudart, library


_installed = None


def installed_backend():
    """What `get_backend` makes while a simulation is installed."""
    return simulated_backend(_installed)


def simulated_backend(library):
    """The backend over `library`. TensorRT-RTX has no fp32 attention; ONNX Runtime, which stands in for it, has."""
    if library.classic:
        return classic_backend(library)
    from hsengines.trt.rtx import TensorRtRtxBackend

    class Backend(TensorRtRtxBackend):
        def check_options(self, options):
            if options.precision != "fp32":
                super().check_options(options)

    return Backend(library)


def classic_backend(library):
    """The `tensorrt` backend, also where its own library cannot be imported."""
    try:
        from hsengines.trt.classic import TensorRtBackend
    except ModuleNotFoundError:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "tensorrt", library)
            from hsengines.trt.classic import TensorRtBackend
    return TensorRtBackend(library)
