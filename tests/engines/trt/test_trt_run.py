"""Running engines on a simulated GPU with a simulated TensorRT-RTX: the order of calls, and what they give."""

import gc

import numpy as np
import pytest
from msgspec.structs import replace
from simulated_tensorrt import SimulatedTensorRT, simulated_gpu
from trt_graphs import counting_network, profile

from hsengines.backend import get_backend
from hsengines.device import HostDevice
from hsengines.errors import DeviceError, DeviceMemoryError, EngineLoadError, ShapeError
from hsengines.trt.options import RtxOptions

OPTIONS = RtxOptions(architectures=(89,))


class Bench:
    """One simulated machine with an engine built for it."""

    def __init__(self, monkeypatch, folder, options=OPTIONS, **cudart):
        self.cuda, self.library = simulated_gpu(monkeypatch, **cudart)
        self.backend = get_backend("tensorrt-rtx")
        onnx, self.spec = counting_network(folder)
        (folder / "out").mkdir()
        self.plan = self.backend.build(onnx, self.spec, options, folder / "out").engine
        self.cuda.log.clear()

    def open(self, graphs=True):
        """Device and engine."""
        self.device = self.backend.device(graphs=graphs)
        self.engine = self.backend.load(self.plan, self.spec, self.device)
        return self.device, self.engine

    def tensors(self, rows=1, tokens=8, cached=0):
        """Inputs filled with 1, 2, ...; outputs empty."""
        x = np.arange(1, rows * tokens + 1, dtype=np.float32).reshape(rows, tokens)
        inputs = {"x": self.device.upload(x), "z": self.device.upload(np.ones((rows, cached), np.float32))}
        return inputs, {
            "y": self.device.empty((rows, tokens), "float32"),
            "total": self.device.empty((rows, 1), "float32"),
        }

    def order(self, *names):
        """The logged calls among `names`, in order."""
        return self.cuda.called(*names)


@pytest.fixture
def bench(monkeypatch, tmp_path):
    made = Bench(monkeypatch, tmp_path)
    yield made
    assert made.library.violations == []


def test_profile_shapes_addresses_and_memory_come_in_that_order(bench):
    _, engine = bench.open()
    inputs, outputs = bench.tensors()
    bench.cuda.log.clear()
    binding = engine.bind(inputs, outputs)
    calls = [entry[0] for entry in bench.cuda.log]
    assert calls == [
        "create_execution_context",
        "set_optimization_profile_async",
        *["set_input_shape"] * 2,
        *["set_tensor_address"] * 4,
        "infer_shapes",
        "update_device_memory_size_for_shapes",
        "infer_shapes",
        "cudaMalloc",
        "set_device_memory",
    ]
    bench.cuda.log.clear()
    binding.enqueue()
    assert bench.cuda.log == [("execute_async_v3",)]


def test_first_profile_that_admits_the_shapes_is_chosen(bench):
    _, engine = bench.open()
    for cached, expected in ((0, 0), (3, 1)):
        bench.cuda.log.clear()
        engine.bind(*bench.tensors(cached=cached))
        assert ("set_optimization_profile_async", expected) in bench.cuda.log


def test_an_engine_computes_with_and_without_cached_tokens(bench):
    _, engine = bench.open()
    for cached in (0, 3):
        inputs, outputs = bench.tensors(rows=2, cached=cached)
        engine.bind(inputs, outputs).enqueue()
        x = inputs["x"].read()
        np.testing.assert_array_equal(outputs["y"].read(), 2 * x + 1)
        np.testing.assert_array_equal(outputs["total"].read(), x.sum(1, keepdims=True) + cached)


def test_kernels_are_compiled_eagerly_and_the_library_captures_nothing_itself(bench):
    bench.open()
    assert ("cuda_graph_strategy", "DISABLED") in bench.cuda.log
    assert ("dynamic_shapes_kernel_specialization_strategy", "EAGER") in bench.cuda.log


def test_capture_warms_up_first_and_releases_in_order(bench):
    device, engine = bench.open()
    inputs, outputs = bench.tensors()
    binding = engine.bind(inputs, outputs)
    bench.cuda.log.clear()
    replay = device.replay([binding.enqueue])
    replay.launch()
    replay.close()
    binding.close()
    engine.close()
    del inputs, outputs
    device.close()
    names = (
        *("execute_async_v3", "cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"),
        *("cudaGraphLaunch", "cudaGraphExecDestroy", "context destroyed", "engine destroyed", "cudaStreamDestroy"),
    )
    assert bench.order(*names) == [
        "execute_async_v3",
        "cudaStreamBeginCapture",
        "execute_async_v3",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
        "cudaGraphLaunch",
        "cudaGraphExecDestroy",
        "context destroyed",
        "engine destroyed",
        "cudaStreamDestroy",
    ]
    assert bench.cuda.left() == {}


@pytest.mark.parametrize("graphs", [True, False])
def test_a_sequence_replayed_twice_gives_what_running_it_twice_gives(bench, graphs):
    device, engine = bench.open(graphs)
    inputs, outputs = bench.tensors()
    binding = engine.bind(inputs, outputs)
    step = [binding.enqueue, lambda: inputs["x"].copy_from(outputs["y"])]  # x becomes 2 x + 1
    replay = device.replay(step)
    inputs["x"].write(np.ones((1, 8), np.float32))
    replay.launch()
    replay.launch()
    np.testing.assert_array_equal(inputs["x"].read(), np.full((1, 8), 7, np.float32))
    assert bench.order("cudaGraphLaunch") == ["cudaGraphLaunch"] * (2 if graphs else 0)
    replay.close()


def test_contexts_share_one_block_of_memory_sized_for_the_largest(bench):
    device, engine = bench.open()
    small = engine.bind(*bench.tensors(tokens=2, cached=1))
    large = engine.bind(*bench.tensors(rows=4, tokens=8, cached=8))
    again = engine.bind(*bench.tensors(tokens=2, cached=1))
    sizes = [entry[1] for entry in bench.cuda.log if entry[0] == "set_device_memory"]
    assert sizes[0] < sizes[1] == sizes[2]
    for binding in (small, large, again):
        binding.enqueue()
    small.close()
    held = device.allocated_bytes
    large.close()
    again.close()
    assert device.scratch(1).nbytes == sizes[1]
    assert device.allocated_bytes <= held


@pytest.mark.parametrize("two_streams", [True, False])
def test_an_engine_bound_beside_has_stream_and_scratch_of_its_own_where_there_are_two(bench, two_streams):
    device, engine = bench.open()
    device.two_streams, main = two_streams, device.stream
    first, second = engine.bind(*bench.tensors()), engine.bind(*bench.tensors(), beside=True)
    assert device.stream == main
    assert (second._stream != first._stream) == two_streams
    assert (first._kept[-1] is not second._kept[-1]) == two_streams
    device.fork([first.enqueue], [second.enqueue])()
    assert len(bench.order("cudaStreamWaitEvent")) == 2 * two_streams


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda i, o, d: i.pop("z"), "wants an input 'z'"),
        (lambda i, o, d: o.update(odd=o["y"]), "no tensor named odd"),
        (lambda i, o, d: o.update(y=d.empty((1, 8), "int32")), r"'y': found int32\(1, 8\), expected float32\(1, 8\)"),
        (lambda i, o, d: o.update(y=d.empty((1, 7), "float32")), r"'y': found float32\(1, 7\)"),
        (lambda i, o, d: i.update(x=d.empty((9, 8), "float32"), z=d.empty((9, 0), "float32")), "outside its profiles"),
    ],
)
def test_wrong_tensors_are_told_before_tensorrt_is_asked(bench, spoil, told):
    device, engine = bench.open()
    inputs, outputs = bench.tensors()
    spoil(inputs, outputs, device)
    bench.cuda.log.clear()
    with pytest.raises(ShapeError, match=told):
        engine.bind(inputs, outputs)
    assert bench.order("create_execution_context") == []


@pytest.mark.parametrize("refused", ["set_optimization_profile_async", "set_input_shape", "set_tensor_address"])
def test_every_refusal_while_binding_is_an_error(bench, refused):
    _, engine = bench.open()
    bench.library.refuse.add(refused)
    with pytest.raises(DeviceError, match=r"engine 'count': TensorRT does not take "):
        engine.bind(*bench.tensors())
    gc.collect()
    assert bench.library.live["contexts"] == 0


def test_a_run_that_is_refused_tells_what_tensorrt_said(bench):
    _, engine = bench.open()
    binding = engine.bind(*bench.tensors())
    bench.library.refuse.add("execute_async_v3")
    with pytest.raises(DeviceError, match=r"engine 'count' did not run: nothing will come of it$"):
        binding.enqueue()


def test_running_out_of_memory_is_told_as_such(bench):
    _, engine = bench.open()
    bench.library.refuse.add("create_execution_context")
    with pytest.raises(DeviceMemoryError, match=r"no room for a context of engine 'count'"):
        engine.bind(*bench.tensors())
    bench.library.refuse.add("deserialize_cuda_engine")
    with pytest.raises(DeviceMemoryError, match=r"no room for the weights of count.engine") as raised:
        bench.backend.load(bench.plan, bench.spec, bench.device)
    assert raised.value.needed_bytes == bench.plan.stat().st_size


def test_closing_twice_and_using_what_is_closed(bench):
    _, engine = bench.open()
    inputs, outputs = bench.tensors()
    binding = engine.bind(inputs, outputs)
    engine.close()
    engine.close()
    binding.close()
    with pytest.raises(DeviceError, match=r"binding that is closed"):
        binding.enqueue()
    with pytest.raises(EngineLoadError, match=r"engine 'count' is closed"):
        engine.bind(inputs, outputs)
    assert bench.order("context destroyed", "engine destroyed") == ["context destroyed", "engine destroyed"]
    assert bench.library.live == {"contexts": 0, "engines": 0}


def test_plan_of_another_version(bench):
    device, _ = bench.open()
    bench.library.__version__ = "1.8.0.1"
    with pytest.raises(EngineLoadError, match=r"count.engine was built by another version than TensorRT-RTX 1.8.0.1"):
        bench.backend.load(bench.plan, bench.spec, device)


def test_plan_that_lacks_this_gpus_architecture(monkeypatch, tmp_path):
    bench = Bench(monkeypatch, tmp_path, name="NVIDIA H100", capability=(9, 0))
    with pytest.raises(EngineLoadError, match=r"not built for this GPU, NVIDIA H100 \(sm_90\)"):
        bench.open()


@pytest.mark.parametrize("content", [b"", b"not a plan at all"])
def test_damaged_plan(bench, content):
    device, _ = bench.open()
    bench.plan.write_bytes(content)
    with pytest.raises(EngineLoadError, match=r"count.engine (is damaged|cannot be read).*; build the bundle again"):
        bench.backend.load(bench.plan, bench.spec, device)


def test_missing_plan(bench):
    device, _ = bench.open()
    with pytest.raises(EngineLoadError, match=r"gone.engine cannot be read"):
        bench.backend.load(bench.plan.with_name("gone.engine"), bench.spec, device)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: replace(s, outputs=s.outputs[:1]), "other tensors than its spec: total"),
        (lambda s: replace(s, outputs=s.inputs, inputs=s.outputs), "other|another"),
        (
            lambda s: replace(s, inputs=(replace(s.inputs[0], dtype="float16"), s.inputs[1])),
            "'x' than .* input float32",
        ),
        (lambda s: replace(s, inputs=(replace(s.inputs[0], shape=("N",)), s.inputs[1])), "of 2 dimensions, expected"),
        (lambda s: replace(s, profiles=(*s.profiles, profile("more"))), "has 2 profiles, expected 3"),
    ],
)
def test_plan_that_is_not_what_the_spec_says(bench, change, told):
    device, _ = bench.open()
    with pytest.raises(EngineLoadError, match=told):
        bench.backend.load(bench.plan, change(bench.spec), device)
    assert bench.library.live["engines"] == 1


def test_streamed_weights_and_graphs_exclude_each_other(monkeypatch, tmp_path):
    bench = Bench(monkeypatch, tmp_path, replace(OPTIONS, weight_streaming=True))
    with pytest.raises(EngineLoadError, match=r"streams its weights, .*; run it with --no-graphs"):
        bench.open(graphs=True)
    gc.collect()
    assert bench.library.live["engines"] == 0
    _, engine = bench.open(graphs=False)
    assert ("weight_streaming_budget_v2", 500) in bench.cuda.log
    inputs, outputs = bench.tensors()
    engine.bind(inputs, outputs).enqueue()
    np.testing.assert_array_equal(outputs["y"].read(), 2 * inputs["x"].read() + 1)


def test_another_backends_device_is_refused(bench):
    with pytest.raises(EngineLoadError, match=r"runs on a GPU, not on CPU; open the device of backend 'tensorrt-rtx'"):
        bench.backend.load(bench.plan, bench.spec, HostDevice())


def test_simulation_offers_nothing_that_the_real_library_lacks(bench):
    with pytest.raises(AttributeError):
        bench.library.create_infer_runtime  # noqa: B018
    config = bench.library.IBuilderConfig()
    with pytest.raises(AttributeError, match=r"no attribute 'fp16_mode'"):
        config.fp16_mode = True
    with pytest.raises(AttributeError):
        config.set_calibrator  # noqa: B018
    with pytest.raises(AssertionError, match=r"has no frobnicate"):
        from simulated_tensorrt import Runtime, made_for

        made_for(bench.library, type("Odd", (Runtime,), {"frobnicate": len}))


def test_simulation_notices_wrong_orders(bench):
    device, engine = bench.open()
    context = bench.engine._contexts.make()
    with pytest.raises(AssertionError, match=r"profile is chosen before"):
        context.set_input_shape("x", (1, 8))
    context.set_optimization_profile_async(0, device.stream)
    with pytest.raises(AssertionError, match=r"shapes are set before memory"):
        context.update_device_memory_size_for_shapes()
    with pytest.raises(AssertionError, match=r"memory is given before a run"):
        context.execute_async_v3(device.stream)
    assert not context.set_tensor_address("x", 0)
    engine.close()
    assert bench.library.violations == ["an engine is destroyed under 1 contexts"]
    bench.library.violations.clear()


def test_simulation_notices_a_graph_that_outlives_its_context(bench):
    device, engine = bench.open()
    binding = engine.bind(*bench.tensors())
    replay = device.replay([binding.enqueue])
    binding.close()
    with pytest.raises(AssertionError, match=r"context is gone"):
        replay.launch()


def test_two_simulations_are_apart(bench):
    other = SimulatedTensorRT(bench.cuda)
    assert other.Runtime is not bench.library.Runtime
    assert other.DataType is bench.library.DataType
