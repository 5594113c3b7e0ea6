"""Backends whose engines are the graphs themselves, on the CPU."""

import numpy as np
import psutil
import pytest
from msgspec import structs
from onnx import TensorProto, helper, save
from tools import HAS_BF16

from hsengines.backend import get_backend
from hsengines.build import BuildOptions
from hsengines.device import HostDevice
from hsengines.errors import BackendUnavailable, EngineBuildError, EngineLoadError, HSError, ShapeError
from hsengines.spec import DimRange, EngineSpec, Profile, TensorSpec

SPEC = EngineSpec(
    "join",
    (TensorSpec("active", "float32", ("M", 3)), TensorSpec("past", "float32", ("R", 3))),
    (TensorSpec("sum", "float32", (3,)), TensorSpec("doubled", "float32", ("M", 3))),
    (Profile("all", {"M": DimRange(1, 2, 8), "R": DimRange(0, 2, 8)}),),
)


@pytest.fixture
def onnx(tmp_path):
    """Sums active and past rows together, and doubles the active ones."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Concat", ["active", "past"], ["all"], axis=0),
            helper.make_node("ReduceSum", ["all", "axes"], ["sum"], keepdims=0),
            helper.make_node("Add", ["active", "active"], ["doubled"]),
        ],
        "join",
        [value("active", TensorProto.FLOAT, ["M", 3]), value("past", TensorProto.FLOAT, ["R", 3])],
        [value("sum", TensorProto.FLOAT, [3]), value("doubled", TensorProto.FLOAT, ["M", 3])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [0])],
    )
    path = tmp_path / "join.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.fixture(params=["ort-cpu", "openvino"])
def backend(request):
    return get_backend(request.param, "")


@pytest.fixture
def device(backend):
    return backend.device()


@pytest.fixture
def engine(backend, device, onnx):
    engine = backend.load(onnx, SPEC, device)
    yield engine
    engine.close()


def tensors(device, active=2, cached=2):
    """Buffers (inputs, outputs) for as many active and cached rows."""
    inputs = {"active": device.empty((active, 3), "float32"), "past": device.empty((cached, 3), "float32")}
    return inputs, {"sum": device.empty((3,), "float32"), "doubled": device.empty((active, 3), "float32")}


def test_one_binding_follows_its_inputs_through_many_runs(engine, device):
    inputs, outputs = tensors(device)
    binding = engine.bind(inputs, outputs)
    for run in range(20):
        active, past = np.full((2, 3), run, np.float32), np.full((2, 3), 10 * run, np.float32)
        inputs["active"].write(active)
        inputs["past"].write(past)
        binding.enqueue()
        np.testing.assert_array_equal(outputs["sum"].read(), [22 * run] * 3)
        np.testing.assert_array_equal(outputs["doubled"].read(), 2 * active)


def test_output_of_one_binding_is_the_input_of_another(engine, device):
    inputs, outputs = tensors(device)
    inputs["active"].write(np.ones((2, 3), np.float32))
    inputs["past"].write(np.zeros((2, 3), np.float32))
    first = engine.bind(inputs, outputs)
    after = tensors(device)[1]
    second = engine.bind({"active": outputs["doubled"], "past": inputs["past"]}, after)
    first.enqueue()
    second.enqueue()
    np.testing.assert_array_equal(after["doubled"].read(), np.full((2, 3), 4))


def test_no_cached_rows_at_all_is_a_shape_like_any_other(engine, device):
    inputs, outputs = tensors(device, cached=0)
    inputs["active"].write(np.ones((2, 3), np.float32))
    engine.bind(inputs, outputs).enqueue()
    np.testing.assert_array_equal(outputs["sum"].read(), [2, 2, 2])


def test_bindings_of_different_shapes_live_side_by_side(engine, device):
    small, large = tensors(device, active=1, cached=0), tensors(device, active=8, cached=8)
    bindings = [engine.bind(*small), engine.bind(*large)]
    for inputs, _ in (small, large):
        for tensor in inputs.values():
            tensor.write(np.ones(tensor.shape, np.float32))
    for binding in (*bindings, *bindings):
        binding.enqueue()
    assert small[1]["sum"].read()[0] == 1
    assert large[1]["sum"].read()[0] == 16


def test_binding_keeps_its_tensors_alive(engine, device):
    inputs, outputs = tensors(device)
    inputs["active"].write(np.ones((2, 3), np.float32))
    inputs["past"].write(np.ones((2, 3), np.float32))
    binding = engine.bind(inputs, outputs)
    total = outputs["sum"]
    del inputs, outputs
    noise = [np.full((2, 3), 7, np.float32) for _ in range(100)]  # would land in the freed memory
    binding.enqueue()
    assert len(noise) == 100
    np.testing.assert_array_equal(total.read(), [4, 4, 4])


@pytest.mark.parametrize(
    ("side", "name", "shape", "dtype", "words"),
    [
        (0, "past", (2, 3), "float64", "'past': found float64"),
        (0, "past", (2, 4), "float32", "'past': dimension 3 is 4"),
        (0, "past", (9, 3), "float32", "R=9 lies outside its profiles"),
        (1, "doubled", (3, 3), "float32", r"'doubled': found float32\(3, 3\), expected float32\(2, 3\)"),
        (1, "tripled", (2, 3), "float32", "no tensor named tripled"),
    ],
)
def test_tensor_that_does_not_fit_is_refused_at_binding(engine, device, side, name, shape, dtype, words):
    bound = tensors(device)
    bound[side][name] = device.empty(shape, dtype)
    with pytest.raises(ShapeError, match=words):
        engine.bind(*bound)


def test_missing_output_is_refused_at_binding(engine, device):
    inputs, outputs = tensors(device)
    del outputs["sum"]
    with pytest.raises(ShapeError, match="nothing is bound to 'sum'"):
        engine.bind(inputs, outputs)


def test_closed_engine_refuses_to_bind(engine, device):
    engine.close()
    engine.close()
    with pytest.raises(EngineLoadError, match="engine 'join' is closed"):
        engine.bind(*tensors(device))


def test_build_leaves_a_loadable_engine_that_takes_no_space(backend, device, onnx, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    files = backend.build(onnx, SPEC, BuildOptions(), out)
    assert files.engine.samefile(onnx)
    assert files.weights == ()
    backend.load(files.engine, SPEC, device).close()


def test_build_in_another_precision_is_refused(backend, onnx, tmp_path):
    with pytest.raises(EngineBuildError, match=f"'{backend.name}' builds (fp32|fp32 or bf16), not fp16; "):
        backend.build(onnx, SPEC, BuildOptions(precision="fp16"), tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a protobuf", None])
def test_broken_file_is_named_in_one_line(backend, device, tmp_path, content):
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineLoadError, match=r"broken\.onnx.*build the bundle again") as told:
        backend.load(path, SPEC, device)
    assert "\n" not in str(told.value)


def test_truncated_file_is_named(backend, device, onnx):
    onnx.write_bytes(onnx.read_bytes()[:-20])
    with pytest.raises(EngineLoadError, match=r"join\.onnx"):
        backend.load(onnx, SPEC, device)


def test_engine_with_other_tensors_than_its_spec_is_refused(backend, device, onnx):
    other = EngineSpec("join", SPEC.inputs[:1], SPEC.outputs, SPEC.profiles)
    with pytest.raises(EngineLoadError, match=r"join\.onnx has other tensors than its spec: past;"):
        backend.load(onnx, other, device)


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        (
            {"past": TensorSpec("past", "int32", ("R", 3))},
            {},
            "'past' .*: found input float32 of 2 dimensions, expected input int32 of 2 .*",
        ),
        (
            {"past": TensorSpec("past", "float32", ("R", 3, 1))},
            {},
            "'past' .*: found input float32 of 2 .*, expected input float32 of 3 .*",
        ),
        (
            {},
            {"sum": TensorSpec("sum", "float64", (3,))},
            "'sum' .*: found output float32 of 1 .*, expected output float64 of 1 .*",
        ),
        (
            {},
            {"sum": TensorSpec("sum", "float32", (1, 3))},
            "'sum' .*: found output float32 of 1 .*, expected output float32 of 2 .*",
        ),
    ],
)
def test_tensor_of_another_dtype_or_rank_is_named(backend, device, onnx, inputs, outputs, words):
    changed = (
        tuple(changes.get(t.name, t) for t in ts) for changes, ts in ((inputs, SPEC.inputs), (outputs, SPEC.outputs))
    )
    with pytest.raises(EngineLoadError, match=rf"join\.onnx has another tensor {words}; build the bundle again"):
        backend.load(onnx, EngineSpec("join", *changed, SPEC.profiles), device)


def test_output_in_place_of_an_input_is_refused(backend, device, onnx):
    other = EngineSpec("join", (*SPEC.inputs, SPEC.outputs[0]), SPEC.outputs[1:], SPEC.profiles)
    with pytest.raises(EngineLoadError, match=r"another tensor 'sum' than its spec: found output .*, expected input"):
        backend.load(onnx, other, device)


@pytest.mark.parametrize("backend", ["ort-cpu"], indirect=True)
def test_engines_lend_each_other_what_their_runs_take(backend, device, onnx):
    """`all` takes 96 MiB while the engine runs; eight engines in turn need it once."""
    inputs, outputs = tensors(device, active=8)
    inputs["past"] = device.empty((2**23, 3), "float32")
    wide = structs.replace(SPEC, profiles=(Profile("all", {"M": DimRange(1, 2, 8), "R": DimRange(0, 2, 2**23)}),))
    engines = [backend.load(onnx, wide, device) for _ in range(8)]
    taken = []
    for engine in engines:
        engine.bind(inputs, outputs).enqueue()
        taken.append(psutil.Process().memory_info().rss)
    assert taken[-1] - taken[0] < 96 * 2**20


def test_what_openvino_compiled_is_kept_and_a_broken_one_is_made_anew(device, onnx, tmp_path):
    def compiled():
        engine = get_backend("openvino", tmp_path / "kept").load(onnx, SPEC, device)
        inputs, outputs = tensors(device)
        for tensor in inputs.values():
            tensor.write(np.ones((2, 3), np.float32))
        engine.bind(inputs, outputs).enqueue()
        np.testing.assert_array_equal(outputs["sum"].read(), [4, 4, 4])
        return sorted((tmp_path / "kept").rglob("*.blob"))

    (first,) = compiled()
    written = first.stat().st_mtime_ns
    assert compiled() == [first] and first.stat().st_mtime_ns == written
    first.chmod(0o600)
    first.write_bytes(b"no blob")
    assert compiled() == [first]


@pytest.mark.parametrize("place", ["a file", "missing/\0"])
def test_without_a_place_to_keep_it_openvino_compiles_all_the_same(device, onnx, tmp_path, place):
    (tmp_path / "a file").write_text("in the way")
    get_backend("openvino", tmp_path / place).load(onnx, SPEC, device).close()


def test_devices_are_those_that_openvino_lists_the_cpu_first():
    backend = get_backend("openvino", "")
    assert backend.devices()[0] == "CPU"
    assert set(backend.devices()) == set(backend._core.available_devices)


def test_the_cpu_may_be_named_and_is_what_is_taken_unnamed(backend):
    assert backend.device(name="CPU").name == backend.device().name == "CPU"


@pytest.mark.parametrize("name", ["GPU", "NPU", "GPU.7", "nonsense"])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(backend, name):
    if name in backend.devices():
        pytest.skip(f"this machine has a device {name}")
    words = f"backend '{backend.name}' finds no device '{name}' here, only CPU.*; name one that it finds, or leave"
    with pytest.raises(BackendUnavailable, match=words) as told:
        backend.device(name=name)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("kept", ["", "kept"])
def test_what_openvino_says_of_a_device_is_told_with_network_and_device(onnx, tmp_path, kept):
    backend = get_backend("openvino", kept and tmp_path / kept)
    words = """OpenVINO cannot compile 'join' for XPU: Device with "XPU" name is not registered.*; name another"""
    with pytest.raises(EngineLoadError, match=words) as told:
        backend.load(onnx, SPEC, HostDevice("XPU"))
    assert "\n" not in str(told.value)


def test_an_npu_is_refused_for_the_precision_that_it_lacks_or_for_not_being_there(onnx):
    """Its plugin tells what it computes in without the device."""
    if "NPU" in (backend := get_backend("openvino", "")).devices():
        pytest.skip("this machine has an NPU")
    with pytest.raises(HSError, match=r"'join' (computes in fp32; for NPU OpenVINO lists FP16|for NPU: )"):
        backend.load(onnx, SPEC, HostDevice("NPU"))


def test_threads_reach_openvino(onnx):
    backend = get_backend("openvino", "")
    engine = backend.load(onnx, SPEC, backend.device(1))
    assert engine._model.get_property("INFERENCE_NUM_THREADS") == 1


@pytest.fixture
def narrow(tmp_path):
    """Doubles in bf16."""
    value = helper.make_tensor_value_info
    shape = ["M", 3]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "narrow",
        [value("x", TensorProto.BFLOAT16, shape)],
        [value("y", TensorProto.BFLOAT16, shape)],
    )
    path = tmp_path / "narrow.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    tensor = TensorSpec("x", "bfloat16", ("M", 3))
    return path, EngineSpec("narrow", (tensor,), (structs.replace(tensor, name="y"),))


@HAS_BF16
@pytest.mark.parametrize("rows", [0, 2])
def test_bf16_tensors_are_bound_where_they_lie(device, narrow, rows):
    backend, (path, spec) = get_backend("openvino", ""), narrow
    x, y = device.empty((rows, 3), "bfloat16"), device.empty((rows, 3), "bfloat16")
    x.write(np.full((rows, 3), 1.5, x.dtype))
    backend.load(path, spec, device).bind({"x": x}, {"y": y}).enqueue()
    np.testing.assert_array_equal(y.read(), np.full((rows, 3), 3, x.dtype))


def test_cpu_without_bf16_is_told_what_it_lacks(device, narrow, monkeypatch):
    backend, (path, spec) = get_backend("openvino", ""), narrow
    monkeypatch.setattr(type(backend), "_capabilities", lambda self, device: ["FP32", "INT8"])
    words = "'narrow' computes in bf16; for CPU OpenVINO lists FP32, INT8; build with --precision fp32"
    with pytest.raises(BackendUnavailable, match=words):
        backend.load(path, spec, device)


def test_a_profile_tells_each_run_and_where_its_time_goes(backend, onnx):
    inputs = {"active": np.ones((8, 3), np.float32), "past": np.ones((4, 3), np.float32)}
    runs, operators = backend.profile(onnx, inputs, 5, 1)
    assert len(runs) == 5
    assert all(seconds > 0 for seconds in runs)
    assert sum(operators.values()) > 0
    assert any("Reduce" in operator for operator in operators)


def test_backend_without_a_profile_says_so(onnx):
    with pytest.raises(BackendUnavailable, match="backend 'null' does not tell where its time goes"):
        get_backend("null").profile(onnx, {}, 1)
