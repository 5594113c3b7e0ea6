import gc
import weakref

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, save
from simulated_cuda import install

from hsengines.backend import get_backend
from hsengines.build import BuildOptions
from hsengines.errors import (
    BackendUnavailable,
    DeviceError,
    DeviceMemoryError,
    EngineBuildError,
    EngineLoadError,
    ShapeError,
)
from hsengines.ort import cuda as ort_cuda
from hsengines.ort import cuda_engine
from hsengines.ort.cuda import Placed, placement, refuse_strays
from hsengines.ort.session import open_session
from hsengines.spec import DimRange, EngineSpec, Profile, TensorSpec

PROFILE = Profile("all", {"M": DimRange(0, 2, 8)})


def spec(dtype="float32"):
    return EngineSpec("mix", (TensorSpec("x", dtype, ("M", 3)),), (TensorSpec("y", dtype, ("M", 3)),), (PROFILE,))


def network(folder, nodes, kind=TensorProto.FLOAT, name="mix.onnx"):
    """Makes y of x, both (M, 3), by `nodes`; `w` is a matrix that doubles, `one` is 1."""
    value = helper.make_tensor_value_info
    weights = [
        numpy_helper.from_array(2 * np.eye(3, dtype=np.float32), "w"),
        numpy_helper.from_array(np.ones(1, np.float32), "one"),
    ]
    graph = helper.make_graph(nodes, "mix", [value("x", kind, ["M", 3])], [value("y", kind, ["M", 3])], weights)
    path = folder / name
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.fixture
def onnx(tmp_path):
    """Doubles x and adds ones, of a shape that it computes."""
    return network(
        tmp_path,
        [
            helper.make_node("Shape", ["x"], ["shape"], name="how_many"),
            helper.make_node("Expand", ["one", "shape"], ["ones"], name="spread"),
            helper.make_node("MatMul", ["x", "w"], ["doubled"], name="blocks.0/matmul"),
            helper.make_node("Add", ["doubled", "ones"], ["y"], name="sum"),
        ],
    )


def open_plainly(path):
    return open_session(path, spec(), ort_cuda._recorded_options(), ["CPUExecutionProvider"])


class OnTheCpu(ort_cuda.OrtCudaBackend):
    """The backend with ONNX Runtime's other provider, over the simulated GPU's memory."""

    provider = "CPUExecutionProvider"
    placement = "cpu"


@pytest.fixture
def cuda(monkeypatch):
    return install(monkeypatch)


@pytest.fixture
def backend(cuda, monkeypatch):
    monkeypatch.setattr(ort_cuda, "why_no_libraries", lambda: "")
    return OnTheCpu()


@pytest.fixture
def device(backend):
    device = backend.device()
    yield device
    device.close()


@pytest.fixture
def engine(backend, device, onnx):
    engine = backend.load(onnx, spec(), device)
    yield engine
    engine.close()


def tensors(device, rows=2):
    return device.empty((rows, 3), "float32"), device.empty((rows, 3), "float32")


def graph_of(binding):
    return binding._options.get_run_config_entry("gpu_graph_id")


@pytest.mark.parametrize("rows", [2, 8, 0])
def test_engine_runs_over_device_memory(engine, device, rows):
    x, y = tensors(device, rows)
    binding = engine.bind({"x": x}, {"y": y})
    for run in range(3):
        x.write(np.full((rows, 3), run, np.float32))
        binding.enqueue()
        np.testing.assert_array_equal(y.read(), np.full((rows, 3), 2 * run + 1))


def test_bfloat16_is_bound(backend, device, tmp_path):
    path = network(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], TensorProto.BFLOAT16)
    engine = backend.load(path, spec("bfloat16"), device)
    x = device.upload(np.array([[1, -2, 0.5]], ml_dtypes.bfloat16))
    y = device.empty((1, 3), "bfloat16")
    engine.bind({"x": x}, {"y": y}).enqueue()
    np.testing.assert_array_equal(y.read(), x.read())


def test_binding_keeps_its_tensors_until_it_is_closed(engine, device, cuda):
    x, y = tensors(device)
    binding = engine.bind({"x": x}, {"y": y})
    del x, y
    assert len(cuda.live_allocations) == 2
    binding.close()
    gc.collect()
    assert cuda.live_allocations == {}
    with pytest.raises(EngineLoadError, match="closed"):
        binding.enqueue()


def test_session_goes_with_its_engine_and_bindings(engine, device):
    x, y = tensors(device)
    binding, session = engine.bind({"x": x}, {"y": y}), weakref.ref(engine._session)
    engine.close()
    binding.enqueue()
    binding.close()
    gc.collect()
    assert session() is None


def test_replay_gives_what_running_gives(engine, device):
    x, y = tensors(device)
    binding = engine.bind({"x": x}, {"y": y})
    replay = device.replay([binding.enqueue, lambda: x.copy_from(y)])
    x.write(np.ones((2, 3), np.float32))
    replay.launch()
    replay.launch()
    np.testing.assert_array_equal(x.read(), np.full((2, 3), 7))


def test_onnx_runtime_captures_and_cuda_does_not(engine, device, cuda):
    bindings = [
        engine.bind(*({name: t} for name, t in zip("xy", tensors(device, rows), strict=True))) for rows in (2, 3)
    ]
    alone = engine.bind(*({name: t} for name, t in zip("xy", tensors(device), strict=True)))
    assert {graph_of(b) for b in (*bindings, alone)} == {"-1"}
    device.replay([b.enqueue for b in bindings])
    alone.enqueue()
    assert [graph_of(b) for b in bindings] == ["1", "2"]
    assert graph_of(alone) == "-1"
    assert "cudaStreamBeginCapture" not in cuda.called()


def test_without_graphs_nothing_is_run_beforehand(backend, onnx):
    device = backend.device(graphs=False)
    engine = backend.load(onnx, spec(), device)
    x, y = tensors(device)
    binding = engine.bind({"x": x}, {"y": y})
    y.write(np.full((2, 3), 9, np.float32))
    device.replay([binding.enqueue])
    assert graph_of(binding) == "-1"
    np.testing.assert_array_equal(y.read(), np.full((2, 3), 9))


class Released:
    """A session that says what became of its graphs."""

    def __init__(self, fail=""):
        self.log = []
        self.fail = fail

    def run_with_iobinding(self, io, options):
        self.log.append(("run", options.get_run_config_entry("gpu_graph_id")))
        if self.fail:
            raise RuntimeError(self.fail)

    def release_captured_graph(self, graph):
        self.log.append(("release", graph))


def binding_of(session, device, graph=5):
    return cuda_engine.OrtCudaBinding("large", session, None, [], device, graph)


def test_closing_a_binding_frees_its_graph_once(device):
    session = Released()
    captured, plain = binding_of(session, device), binding_of(session, device, 6)
    device.replay([captured.enqueue])
    plain.enqueue()
    for binding in (captured, captured, plain):
        binding.close()
    assert session.log == [("run", "5"), ("run", "-1"), ("release", 5)]


def test_failing_run_is_told_with_the_engines_name_in_one_line(device):
    binding = binding_of(Released("[ONNXRuntimeError] CUDA failure 700: illegal memory access\n  at frame 1"), device)
    with pytest.raises(DeviceError, match=r"^'large' failed in ONNX Runtime: .*CUDA failure 700: illegal") as told:
        binding.enqueue()
    assert "\n" not in str(told.value)


def test_failing_capture_points_to_the_way_without(device):
    binding = binding_of(Released("Graph capture did not complete after 8 runs"), device)
    with pytest.raises(DeviceError, match=r"could not be captured as CUDA graphs: 'large' failed .*--no-graphs"):
        device.replay([binding.enqueue])
    assert not device.recording
    assert gc.isenabled()


def test_lack_of_memory_says_how_much_was_needed(device):
    binding = binding_of(Released("BFCArena: Failed to allocate memory for requested buffer of size 4096"), device)
    for run in (binding.enqueue, lambda: device.replay([binding.enqueue])):
        with pytest.raises(DeviceMemoryError, match=r"'large' failed.*; ask for smaller shapes") as told:
            run()
        assert told.value.needed_bytes == 4096


@pytest.fixture
def opened(monkeypatch):
    """What sessions were opened with: (options, providers)."""
    log = []

    def spy(engine, spec, options, providers):
        log.append((options, providers))
        return open_session(engine, spec, options, providers)

    monkeypatch.setattr(ort_cuda, "open_session", spy)
    return log


@pytest.mark.parametrize("graphs", [True, False])
def test_session_is_opened_on_the_devices_stream(backend, onnx, opened, graphs):
    device = backend.device(graphs=graphs)
    backend.load(onnx, spec(), device)
    [(options, [(provider, given)])] = opened
    assert provider == backend.provider
    assert given["user_compute_stream"] == str(device.stream)
    assert given["enable_cuda_graph"] == str(int(graphs))
    assert options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"


def test_runs_do_not_wait_for_the_gpu(engine, device):
    binding = engine.bind(*({name: t} for name, t in zip("xy", tensors(device), strict=True)))
    assert binding._options.get_run_config_entry("disable_synchronize_execution_providers") == "1"


def test_node_on_the_cpu_is_refused_by_name_unless_it_computes_shapes(onnx):
    nodes = placement(open_plainly(onnx))
    assert {node.op for node in nodes} >= {"Shape", "Expand"}
    words = (
        r"mix\.onnx would not run on CUDAExecutionProvider whole: \w+ 'blocks\.0/matmul\S*' on CPUExecutionProvider; "
    )
    with pytest.raises(EngineLoadError, match=words) as told:
        refuse_strays("mix.onnx", nodes, "CUDAExecutionProvider")
    assert "how_many" not in str(told.value)


def test_many_strays_are_counted():
    nodes = [Placed(f"n{i}", "Attention", "CPUExecutionProvider") for i in range(8)]
    with pytest.raises(EngineLoadError, match=r"Attention 'n4' on CPUExecutionProvider and 3 more;"):
        refuse_strays("mix.onnx", nodes, "CUDAExecutionProvider")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_network_that_cannot_be_captured_names_the_nodes_to_blame(backend, device, onnx, monkeypatch):
    def refuse_graphs(engine, spec, options, providers):
        if providers[0][1]["enable_cuda_graph"] == "1":
            raise EngineLoadError("This session cannot use the graph capture feature as requested by the user", "again")
        return open_session(engine, spec, options, providers)

    monkeypatch.setattr(ort_cuda, "open_session", refuse_graphs)
    monkeypatch.setattr(ort_cuda, "placement", lambda _: [Placed("n", "NonZero", "CPUExecutionProvider")])
    monkeypatch.setattr(backend, "provider", "CUDAExecutionProvider")
    with pytest.raises(EngineLoadError, match=r"graph capture.*: NonZero 'n' on CPUExecutionProvider; .*--no-graphs"):
        backend.load(onnx, spec(), device)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_provider_that_does_not_start_is_noticed(backend, device, onnx, monkeypatch):
    monkeypatch.setattr(backend, "provider", "CUDAExecutionProvider")
    with pytest.raises(BackendUnavailable, match=r"could not start its CUDAExec.*pip install"):
        backend.load(onnx, spec(), device)


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="onnxruntime-gpu is installed")
def test_onnxruntime_without_cuda_is_told_with_the_remedy(cuda):
    backend = get_backend("ort-cuda")
    assert "has no CUDAExecutionProvider, which onnxruntime-gpu has" in backend.why_not_here()
    with pytest.raises(BackendUnavailable, match="pip uninstall onnxruntime, then pip install onnxruntime-gpu"):
        backend.device()
    assert cuda.log == []


def test_machine_without_a_gpu_is_told(backend, cuda):
    cuda.fail("cudaGetDeviceCount", "cudaErrorNoDevice", sticky=True)
    assert "cudaErrorNoDevice" in backend.why_not_here()
    with pytest.raises(BackendUnavailable, match="cudaErrorNoDevice"):
        backend.device()


def test_build_where_it_can_run_loads_the_engine_and_leaves_nothing(backend, cuda, onnx, opened, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    files = backend.build(onnx, spec(), BuildOptions(precision="fp16"), out)
    assert files.engine.samefile(onnx)
    assert opened[0][1][0][0] == backend.provider
    assert cuda.left() == {}


@pytest.mark.parametrize(("precision", "checked"), [("fp32", 1), ("fp16", 1), ("bf16", 0)])
def test_build_elsewhere_checks_what_the_cpu_can(backend, cuda, onnx, opened, tmp_path, precision, checked):
    cuda.fail("cudaGetDeviceCount", "cudaErrorNoDevice", sticky=True)
    out = tmp_path / "out"
    out.mkdir()
    backend.build(onnx, spec(), BuildOptions(precision=precision), out)
    assert [providers for _, providers in opened] == [["CPUExecutionProvider"]] * checked


def test_broken_graph_is_refused_at_build(backend, cuda, onnx, tmp_path):
    cuda.fail("cudaGetDeviceCount", "cudaErrorNoDevice", sticky=True)
    onnx.write_bytes(b"not a graph")
    (tmp_path / "out").mkdir()
    with pytest.raises(EngineLoadError, match=r"mix\.onnx was not written by a build"):
        backend.build(onnx, spec(), BuildOptions(), tmp_path / "out")


def test_unknown_precision_is_refused(backend):
    with pytest.raises(EngineBuildError, match="'ort-cuda' builds fp32 or fp16 or bf16, not int8"):
        backend.check_options(BuildOptions(precision="int8"))


def test_shapes_outside_the_profiles_are_refused(engine, device):
    with pytest.raises(ShapeError, match="M=9 lies outside"):
        engine.bind(*({name: t} for name, t in zip("xy", tensors(device, 9), strict=True)))


def test_whole_life_leaves_nothing(backend, cuda, onnx):
    device = backend.device()
    engine = backend.load(onnx, spec(), device)
    x, y = tensors(device)
    binding = engine.bind({"x": x}, {"y": y})
    replay = device.replay([binding.enqueue])
    replay.launch()
    device.mark().wait()
    replay.close()
    binding.close()
    engine.close()
    del x, y
    device.close()
    assert cuda.left() == {}
