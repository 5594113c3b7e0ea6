"""The building half of the simulated TensorRT: a plan is the ONNX graph with its weights, and what it was built for."""

import json
from pathlib import Path
from types import SimpleNamespace

import onnx
import tensorrt_rtx as real
from onnx import TensorProto

MAGIC = b"simulated plan\n"
DTYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}


class Simulated:
    """Takes no public attribute that the class it plays lacks; unknown ones raise AttributeError by themselves."""

    real: type
    library = None

    def __setattr__(self, name, value):
        if not name.startswith("_") and not hasattr(self.real, name):
            raise AttributeError(f"{self.real.__name__} has no attribute '{name}'")
        super().__setattr__(name, value)


class HostMemory(bytes):
    """What the library hands out; only a real class of Python can offer a buffer."""

    @property
    def nbytes(self):
        return len(self)


class Builder(Simulated):
    real = real.Builder

    def __init__(self, logger):
        self._logger = logger

    def create_network(self, flags):
        assert flags & 1 << int(real.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return self.library.INetworkDefinition()

    def create_builder_config(self):
        return self.library.IBuilderConfig()

    def create_optimization_profile(self):
        return self.library.IOptimizationProfile()

    def build_serialized_network(self, network, config):
        if self.library.told("build_serialized_network"):
            self._logger.log(
                real.ILogger.ERROR, "IBuilder: Error Code 10: Internal Error (Could not find any implementation)"
            )
            return None
        monitor = config._monitor
        monitor.phase_start("Building engine", None, 2)
        going_on = all(monitor.step_complete("Building engine", step) for step in range(2))
        monitor.phase_finish("Building engine")
        if not going_on:
            return None
        if config._timing is not None:
            config._timing._content += b"measured;"
        return HostMemory(plan_of(self.library, network, config))


def plan_of(library, network, config):
    """The bytes of a plan: a short header and more facts in a line each, then the graph."""
    stripped = "STRIP_PLAN" in config._flags
    header = {"version": library.__version__, "architectures": config._architectures or [library.architecture]}
    facts = {
        "name": network.name,
        "tensors": network._tensors,
        "profiles": [profile._shapes for profile in config._profiles],
        "stripped": stripped,
        "refittable": stripped or "REFIT" in config._flags,
        "streaming": "WEIGHT_STREAMING" in config._flags,
        "flags": sorted(config._flags),
        "inspected": [inspected(layer) for layer in network._layers],
    }
    lines = b"".join(json.dumps(line).encode() + b"\n" for line in (header, facts))
    return MAGIC + lines + (b"" if stripped else network._graph)


def inspected(layer):
    """A layer as TensorRT's inspector prints it in JSON."""
    printed = {"FLOAT": "FP32", "HALF": "FP16"}
    return {
        "Name": layer.name,
        "LayerType": "Kernel",
        "Outputs": [
            {"Name": o.name, "Format/Datatype": f"Row major linear {printed.get(o.dtype.name, o.dtype.name)} format"}
            for o in layer._outputs
        ],
        "Metadata": layer.metadata,
    }


def plan_header(plan):
    """Version and architectures from a plan's beginning; None if it is no plan."""
    header, end, _ = plan.removeprefix(MAGIC).partition(b"\n")
    return json.loads(header) if plan.startswith(MAGIC) and end else None


def plan_parts(plan):
    """Facts and graph of a plan; (None, None) if it is none."""
    header = plan_header(plan)
    if header is None:
        return None, None
    facts, _, graph = plan.removeprefix(MAGIC).partition(b"\n")[2].partition(b"\n")
    return header | json.loads(facts), graph


def embedded(path):
    """An ONNX file's bytes with its weights inside."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        where = {entry.key: entry.value for entry in tensor.external_data}
        if where:
            data = (Path(path).parent / where["location"]).read_bytes()
            start = int(where.get("offset", 0))
            tensor.raw_data = data[start : start + int(where["length"])]
            del tensor.external_data[:]
            tensor.data_location = TensorProto.DEFAULT
    return model.SerializeToString()


class Network(Simulated):
    real = real.INetworkDefinition

    def __init__(self):
        self._name, self._graph, self._tensors, self._layers = "", b"", {}, []

    def _take(self, path):
        self._graph = embedded(path)
        graph = onnx.load_from_string(self._graph).graph
        for mode, values in (("INPUT", graph.input), ("OUTPUT", graph.output)):
            for value in values:
                kind = value.type.tensor_type
                shape = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
                self._tensors[value.name] = {"mode": mode, "dtype": DTYPES[kind.elem_type], "shape": shape}
        known = {v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.output, *graph.value_info]}
        known |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        self._layers = [layer_of(node, known) for node in graph.node]

    @property
    def name(self):
        return self._name

    @name.setter
    def name(self, name):
        self._name = name

    def _all(self, mode):
        return [tensor_of(name, t) for name, t in self._tensors.items() if t["mode"] == mode]

    @property
    def num_inputs(self):
        return len(self._all("INPUT"))

    @property
    def num_outputs(self):
        return len(self._all("OUTPUT"))

    @property
    def num_layers(self):
        return len(self._layers)

    def get_input(self, index):
        return self._all("INPUT")[index]

    def get_output(self, index):
        return self._all("OUTPUT")[index]

    def get_layer(self, index):
        return self._layers[index]


class Tensor(Simulated):
    real = real.ITensor

    def __init__(self, name, dtype, shape):
        self.name, self.dtype, self.shape = name, dtype, shape


def tensor_of(name, facts):
    """A network's tensor."""
    return Tensor(name, getattr(real.DataType, facts["dtype"]), tuple(facts["shape"]))


class Layer(Simulated):
    real = real.ILayer

    def __init__(self, name, kind, inputs, outputs):
        self.name, self.metadata, self._inputs, self._outputs = name, f"[ONNX Layer: {name}]", inputs, outputs
        self.type = kind
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)

    def get_input(self, index):
        return self._inputs[index]

    def get_output(self, index):
        return self._outputs[index]


def layer_of(node, known):
    """A node as a layer; inputs and outputs whose dtype the graph does not tell are left out."""
    kind = real.LayerType.DEQUANTIZE if node.op_type == "DequantizeLinear" else real.LayerType.PLUGIN_V3
    sides = ([name for name in names if known.get(name) in DTYPES] for names in (node.input, node.output))
    return Layer(
        node.name, kind, *([Tensor(n, getattr(real.DataType, DTYPES[known[n]]), ()) for n in side] for side in sides)
    )


class Parser(Simulated):
    real = real.OnnxParser

    def __init__(self, network, logger):
        self._network, self._errors = network, []

    def parse_from_file(self, path):
        if self.library.told("parse_from_file"):
            node = {"node_name": "odd", "node_operator": "Odd", "desc": "it is odd"}
            self._errors = [SimpleNamespace(**{name: lambda text=text: text for name, text in node.items()})]
            return False
        self._network._take(path)
        return True

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return self._errors[index]


class Profile(Simulated):
    real = real.IOptimizationProfile

    def __init__(self):
        self._shapes = {}

    def set_shape(self, name, smallest, tuned, largest):
        assert all(a <= b <= c for a, b, c in zip(smallest, tuned, largest, strict=True))
        self._shapes[name] = [list(smallest), list(tuned), list(largest)]


class TimingCache(Simulated):
    real = real.ITimingCache

    def __init__(self, content):
        self._content = content

    def serialize(self):
        return HostMemory(self._content)


class BuilderConfig(Simulated):
    real = real.IBuilderConfig

    def __init__(self):
        self._flags, self._profiles, self._architectures = set(), [], []
        self._timing, self._monitor = None, None
        self.max_aux_streams = -1

    @property
    def progress_monitor(self):
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, monitor):
        self._monitor = monitor

    def set_flag(self, flag):
        self.library.told("set_flag", flag.name)
        self._flags.add(flag.name)

    def set_memory_pool_limit(self, pool, size):
        self.library.told("set_memory_pool_limit", pool.name, size)

    @property
    def num_compute_capabilities(self):
        return len(self._architectures)

    @num_compute_capabilities.setter
    def num_compute_capabilities(self, count):
        self._architectures = [None] * count

    def set_compute_capability(self, capability, index):
        self._architectures[index] = int(capability.name.removeprefix("SM"))
        return not self.library.told("set_compute_capability", capability.name)

    def add_optimization_profile(self, profile):
        if self.library.told("add_optimization_profile"):
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, content):
        return self.library.ITimingCache(bytes(content))

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        if cache._content and not cache._content.startswith(b"measured"):
            return False
        self._timing = cache
        return True

    def get_timing_cache(self):
        return self._timing


BUILDER_CLASSES = (Builder, Network, Parser, Profile, TimingCache, BuilderConfig)
