"""What the real TensorRT-RTX says of plans on a machine without a GPU, and the files beside plans."""

from types import SimpleNamespace

import numpy as np
import pytest
from simulated_tensorrt import simulated_gpu
from trt_graphs import attention_network, counting_network

from hsengines.backend import get_backend
from hsengines.errors import BackendUnavailable, EngineLoadError
from hsengines.trt.base import why_no_gpu
from hsengines.trt.build.log import listening, logger_of
from hsengines.trt.options import RtxOptions
from hsengines.trt.run.contexts import kernels_path
from hsengines.trt.run.loading import open_plan

tensorrt_rtx = pytest.importorskip("tensorrt_rtx")

OPTIONS = RtxOptions(precision="fp16", architectures=(89,))
GPU = SimpleNamespace(name="NVIDIA L4", compute_capability=89)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(plan, spec) by the real builder."""
    folder = tmp_path_factory.mktemp("built")
    onnx, spec = attention_network(folder)
    return get_backend("tensorrt-rtx").build(onnx, spec, OPTIONS, folder).engine, spec


def open_real(plan, spec):
    return open_plan(tensorrt_rtx, "TensorRT-RTX", plan, spec, GPU)


def test_damaged_plan_is_told_by_its_header(built, tmp_path):
    plan, spec = built
    spoilt = tmp_path / "attend.engine"
    spoilt.write_bytes(b"ptrt" + plan.read_bytes()[4:])
    with pytest.raises(
        EngineLoadError, match=r"^attend.engine is damaged, or no plan of this builder; build the bundle"
    ):
        open_real(spoilt, spec)


@pytest.mark.skipif(not why_no_gpu(), reason="a GPU is here")
def test_machine_without_a_gpu_is_told_as_such(built):
    plan, spec = built
    backend = get_backend("tensorrt-rtx")
    assert "there is no GPU" in backend.why_not_here()
    with pytest.raises(BackendUnavailable, match=r"there is no GPU"):
        backend.device()
    with pytest.raises(BackendUnavailable, match=r"finds no device 'GPU' here, nor any other: there is no GPU"):
        backend.device(name="GPU")
    with pytest.raises(EngineLoadError, match=r"TensorRT-RTX cannot open attend.engine: .*driver.* insufficient"):
        open_real(plan, spec)


def test_a_gpu_goes_by_one_name_and_cuda_says_which_it_is(monkeypatch):
    simulated_gpu(monkeypatch)
    backend = get_backend("tensorrt-rtx", "")
    assert backend.devices() == ["GPU"]
    backend.device(name="GPU").close()
    with pytest.raises(BackendUnavailable, match=r"'tensorrt-rtx' finds no device 'GPU.1' here, only GPU; name one"):
        backend.device(name="GPU.1")


def test_one_logger_serves_all_and_hears_only_while_listened_to():
    logger = logger_of(tensorrt_rtx)
    assert logger_of(tensorrt_rtx) is logger
    with listening(tensorrt_rtx) as first:
        tensorrt_rtx.Builder(logger)
        with listening(tensorrt_rtx) as second:
            tensorrt_rtx.Runtime(logger).deserialize_cuda_engine(b"no plan" * 100)
    heard = len(first.lines)
    tensorrt_rtx.Runtime(logger).deserialize_cuda_engine(b"no plan" * 100)
    assert len(first.lines) == heard
    assert second.lines
    assert second.lines == first.lines[-len(second.lines) :]
    assert "Serialization" in second.errors[0]
    assert second.text().startswith("[")


def run_once(monkeypatch, folder, spec, plan, cached):
    """Opens, runs and closes on a simulated GPU that keeps compiled kernels in `folder`."""
    cuda, _ = simulated_gpu(monkeypatch)
    backend = get_backend("tensorrt-rtx", folder)
    device = backend.device()
    engine = backend.load(plan, spec, device)
    x, z = device.upload(np.ones((1, 8), np.float32)), device.upload(np.ones((1, cached), np.float32))
    outputs = {"y": device.empty((1, 8), "float32"), "total": device.empty((1, 1), "float32")}
    engine.bind({"x": x, "z": z}, outputs).enqueue()
    engine.close()
    return cuda


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """(plan, spec) by the simulated builder."""
    simulated_gpu(monkeypatch)
    onnx, spec = counting_network(tmp_path)
    return get_backend("tensorrt-rtx").build(onnx, spec, RtxOptions(architectures=(89,)), tmp_path).engine, spec


def test_compiled_kernels_are_kept_for_the_next_process(monkeypatch, tmp_path, counted):
    plan, spec = counted
    kernels = tmp_path / "kernels"
    run_once(monkeypatch, kernels, spec, plan, 0)
    (kept,) = kernels.rglob("*.kernels")
    first = kept.read_bytes()
    assert first.startswith(b"kernels")
    run_once(monkeypatch, kernels, spec, plan, 3)
    second = kept.read_bytes()
    assert len(second) > len(first)  # what was there before was read
    untouched = kept.stat().st_mtime_ns
    run_once(monkeypatch, kernels, spec, plan, 3)
    assert kept.stat().st_mtime_ns == untouched
    assert [kept] == [path for path in kernels.rglob("*") if path.is_file()]


def test_damaged_kernels_are_replaced(monkeypatch, tmp_path, counted):
    plan, spec = counted
    kernels = tmp_path / "kernels"
    run_once(monkeypatch, kernels, spec, plan, 0)
    (kept,) = kernels.rglob("*.kernels")
    whole = kept.read_bytes()
    kept.write_bytes(b"rubbish")
    run_once(monkeypatch, kernels, spec, plan, 0)
    assert kept.read_bytes() == whole


def test_kernels_are_not_kept_where_nobody_wants_or_can(monkeypatch, tmp_path, counted):
    plan, spec = counted
    (tmp_path / "file").write_text("in the way")
    run_once(monkeypatch, tmp_path / "file", spec, plan, 0)
    assert get_backend("tensorrt-rtx", "").cache is None


def test_kernels_have_a_place_by_version_and_plan(tmp_path, built):
    plan, _ = built
    place = kernels_path(tensorrt_rtx, plan, tmp_path)
    assert place.parent == tmp_path / "runtime-cache" / tensorrt_rtx.__version__
    other = tmp_path / plan.name
    other.write_bytes(plan.read_bytes() + b"x")
    assert kernels_path(tensorrt_rtx, other, tmp_path) != place
