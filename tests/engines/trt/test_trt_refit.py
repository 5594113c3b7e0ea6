"""Engines that take other weights when they are loaded: the calls, over a simulated GPU, and a real build."""

from importlib.util import find_spec

import ml_dtypes
import numpy as np
import pytest
from msgspec.structs import replace
from simulated_tensorrt import simulated_gpu
from trt_graphs import counting_network

from hsengines.backend import get_backend
from hsengines.errors import EngineBuildError, EngineLoadError
from hsengines.trt.options import RtxOptions, TensorRtOptions

OTHERS = {"two": np.float32([5]), "one": np.float32([7]), "rows": np.int64([1])}


class Bench:
    """A simulated GPU with either library, and an engine of y = 2 x + 1 on it."""

    def __init__(self, monkeypatch, folder, *, classic):
        self.cuda, self.library = simulated_gpu(monkeypatch, classic=classic)
        self.backend = get_backend("tensorrt" if classic else "tensorrt-rtx")
        self.options = TensorRtOptions() if classic else RtxOptions(architectures=(89,))
        self.onnx, self.spec = counting_network(folder)
        self.out = folder / "out"
        self.out.mkdir()

    def build(self, **asked):
        """The files of a build with these options."""
        return self.backend.build(self.onnx, self.spec, replace(self.options, **asked), self.out)

    def answer(self, plan, replaced):
        """What comes out as y for x = 1."""
        device = self.backend.device()
        engine = self.backend.load(plan, self.spec, device, replaced)
        inputs = {"x": device.upload(np.ones((1, 8), np.float32)), "z": device.empty((1, 0), "float32")}
        outputs = {"y": device.empty((1, 8), "float32"), "total": device.empty((1, 1), "float32")}
        engine.bind(inputs, outputs).enqueue()
        engine.close()
        return float(outputs["y"].read()[0, 0])


@pytest.fixture(params=[False, True], ids=["rtx", "classic"])
def bench(request, monkeypatch, tmp_path):
    made = Bench(monkeypatch, tmp_path, classic=request.param)
    yield made
    assert made.library.violations == []


def test_engine_takes_other_weights_and_has_its_own_without(bench):
    files = bench.build(refit=True)
    assert ("set_flag", "REFIT") in bench.cuda.log
    assert [path.name for path in files.weights] == ["count.weights"]
    assert files.weights[0].read_bytes() == bench.onnx.with_name("count.onnx.data").read_bytes()
    assert bench.answer(files.engine, {}) == 3
    assert not bench.cuda.called("refit_cuda_engine", "set_named_weights")
    assert bench.answer(files.engine, OTHERS) == 12
    assert bench.cuda.called("refit_cuda_engine", "set_named_weights") == [
        *["set_named_weights"] * 3,
        "refit_cuda_engine",
    ]


def test_engine_that_was_not_built_for_it_names_the_flag(bench):
    files = bench.build()
    with pytest.raises(EngineLoadError, match="engine 'count' takes no other weights; build the bundle with --refit"):
        bench.answer(files.engine, OTHERS)


def test_weights_that_were_joined_with_others_must_all_be_given(bench):
    files = bench.build(refit=True)
    bench.library.joins = True
    assert bench.answer(files.engine, OTHERS) == 12
    with pytest.raises(EngineLoadError, match=r"count.engine cannot be refitted without weight 'one'"):
        bench.answer(files.engine, {"two": OTHERS["two"], "rows": OTHERS["rows"]})


def test_weights_that_the_builder_dropped_are_not_named(bench):
    files = bench.build(refit=True)
    assert bench.answer(files.engine, OTHERS | {"folded": np.float32([1])}) == 12
    assert ("set_named_weights", "folded") not in bench.cuda.log


@pytest.mark.parametrize("refused", ["set_named_weights", "refit_cuda_engine"])
def test_refusal_is_told_in_one_line(bench, refused):
    files = bench.build(refit=True)
    bench.library.refuse.add(refused)
    with pytest.raises(
        EngineLoadError, match=r"count.engine (does not take weight 'two'|cannot take its weights)"
    ) as told:
        bench.answer(files.engine, OTHERS)
    assert "\n" not in str(told.value)


def test_stripped_plan_takes_the_graphs_weights_and_then_others(monkeypatch, tmp_path):
    bench = Bench(monkeypatch, tmp_path, classic=True)
    files = bench.build(refit=True, stripped=True)
    assert [entry[1] for entry in bench.cuda.log if entry[0] == "set_flag"] == ["REFIT", "STRIP_PLAN"]
    assert bench.answer(files.engine, {}) == 3
    assert bench.answer(files.engine, OTHERS) == 12


def test_refitting_enters_the_key_and_networks_of_fixed_weights_go_without(monkeypatch, tmp_path):
    bench = Bench(monkeypatch, tmp_path, classic=False)
    asked = replace(bench.options, refit=True)
    assert bench.backend.key_facts(asked) != bench.backend.key_facts(bench.options)
    assert asked.of_fixed_weights() == bench.options
    assert asked.takes_weights and not bench.options.takes_weights


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs [rtx]")
def test_real_library_takes_bfloat16_by_address():
    import tensorrt_rtx

    array = np.ones(6, ml_dtypes.bfloat16)
    weights = tensorrt_rtx.Weights(tensorrt_rtx.DataType.BF16, array.ctypes.data, array.size)
    assert (weights.size, weights.nbytes) == (6, 12)


def test_machine_without_a_gpu_is_refused_up_front(monkeypatch, tmp_path):
    """As found of the real library: its builder wants CUDA for any of the three flags of refitting."""
    bench = Bench(monkeypatch, tmp_path, classic=False)
    bench.cuda.fail("cudaGetDeviceCount", "cudaErrorNoDevice")
    told = r"takes? other weights on a machine with a GPU only, and .*cudaErrorNoDevice.*; build there"
    with pytest.raises(EngineBuildError, match=told):
        bench.backend.check_options(replace(bench.options, precision="bf16", refit=True))
