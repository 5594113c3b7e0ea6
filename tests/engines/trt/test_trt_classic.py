"""What only TensorRT has, over a simulation of it: caches, compatibility, stripped plans, a GPU to build for."""

import numpy as np
import pytest
from msgspec.structs import replace
from simulated_tensorrt import simulated_gpu
from trt_graphs import counting_network

from hsengines.backend import get_backend
from hsengines.build import Layer
from hsengines.errors import EngineBuildError, EngineLoadError
from hsengines.trt.options import TensorRtOptions

PLAIN = TensorRtOptions()


class Bench:
    """A simulated GPU with TensorRT, and a network."""

    def __init__(self, monkeypatch, folder, **cudart):
        self.cuda, self.library = simulated_gpu(monkeypatch, classic=True, **cudart)
        self.backend = get_backend("tensorrt")
        self.onnx, self.spec = counting_network(folder)
        self.out = folder / "out"
        self.out.mkdir()

    def build(self, **given):
        """The files of a build with these options."""
        return self.backend.build(self.onnx, self.spec, replace(PLAIN, **given), self.out)

    def flags(self):
        """The builder's flags that were set."""
        return [entry[1] for entry in self.cuda.log if entry[0] == "set_flag"]

    def run(self, plan):
        """What comes out as y for x = 1, and the engine closed."""
        device = self.backend.device()
        engine = self.backend.load(plan, self.spec, device)
        inputs = {"x": device.upload(np.ones((1, 8), np.float32)), "z": device.empty((1, 0), "float32")}
        outputs = {"y": device.empty((1, 8), "float32"), "total": device.empty((1, 1), "float32")}
        engine.bind(inputs, outputs).enqueue()
        engine.close()
        return outputs["y"].read()


@pytest.fixture
def bench(monkeypatch, tmp_path):
    return Bench(monkeypatch, tmp_path)


def test_builds_and_runs(bench):
    files = bench.build()
    assert files.weights == ()
    np.testing.assert_array_equal(bench.run(files.engine), np.full((1, 8), 3, np.float32))
    assert bench.library.violations == []


def test_context_is_made_without_a_runtime_config(bench):
    bench.run(bench.build().engine)
    assert "cuda_graph_strategy" not in bench.cuda.called()


def test_plan_is_for_the_gpu_at_hand(bench):
    assert bench.backend.target(PLAIN) == "Simulated GPU (sm_89)"
    assert bench.backend.target(replace(PLAIN, hardware="capability")) == "sm_89"
    assert bench.backend.target(replace(PLAIN, hardware="ampere")) == "sm_80 and later"
    bench.backend.check_options(replace(PLAIN, architectures=(89,)))
    with pytest.raises(
        EngineBuildError, match=r"GPU at hand, Simulated GPU \(89\), not for --arch 80, 89; .*tensorrt-rtx"
    ):
        bench.backend.check_options(replace(PLAIN, architectures=(80, 89)))
    with pytest.raises(EngineBuildError, match=r"hardware compatibility 'any'; choose same, capability, ampere"):
        bench.backend.check_options(replace(PLAIN, hardware="any"))


def test_machine_without_a_gpu_is_refused_up_front(bench):
    bench.cuda.fail("cudaGetDeviceCount", "cudaErrorNoDevice")
    with pytest.raises(
        EngineBuildError, match=r"'tensorrt' builds on a GPU only, and .*cudaErrorNoDevice.*tensorrt-rtx"
    ):
        bench.backend.check_options(PLAIN)


def test_key_knows_every_option_but_not_the_cache(monkeypatch, bench, tmp_path):
    facts = bench.backend.key_facts(PLAIN)
    assert facts["tuned on"] == "Simulated GPU (sm_89)"
    bench.backend.cache = tmp_path
    assert bench.backend.key_facts(PLAIN) == facts
    others = {"workspace_mb": 5, "aux_streams": 1, "hardware": "ampere", "version_compatible": True}
    for name, value in {**others, "weight_streaming": True, "stripped": True}.items():
        assert bench.backend.key_facts(replace(PLAIN, **{name: value})) != facts, name
    monkeypatch.setattr(bench.cuda, "name", "Another GPU")
    assert bench.backend.key_facts(PLAIN) != facts


def test_compatibility_and_limits_reach_the_builder(bench):
    bench.build(version_compatible=True, weight_streaming=True, workspace_mb=3)
    assert set(bench.flags()) == {"VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "WEIGHT_STREAMING"}
    assert ("set_memory_pool_limit", "WORKSPACE", 3 * 2**20) in bench.cuda.log


def test_timing_cache_is_read_before_and_written_after(bench, tmp_path):
    bench.backend.cache = tmp_path / "cache"
    timing = bench.backend.cache / "timing"
    bench.build()
    assert bench.flags() == ["EDITABLE_TIMING_CACHE"]
    assert timing.read_bytes() == b"measured;"
    bench.build()
    assert timing.read_bytes() == b"measured;measured;"
    timing.write_bytes(b"of another GPU")
    bench.build()
    assert timing.read_bytes() == b"measured;"


def test_stripped_plan_takes_its_weights_from_the_graph_beside_it(bench):
    files = bench.build(stripped=True)
    assert bench.flags() == ["STRIP_PLAN", "REFIT_IDENTICAL"]
    assert [path.name for path in files.weights] == ["count.onnx", "count.onnx.data"]
    assert {path.parent for path in files.weights} == {files.engine.parent}
    np.testing.assert_array_equal(bench.run(files.engine), np.full((1, 8), 3, np.float32))


@pytest.mark.parametrize("refused", ["refit_from_file", "refit_cuda_engine"])
def test_stripped_plan_that_cannot_be_refitted(bench, refused):
    files = bench.build(stripped=True)
    bench.library.refuse.add(refused)
    with pytest.raises(EngineLoadError, match=r"count.engine cannot take its weights from count.onnx: "):
        bench.run(files.engine)
    assert bench.library.live["engines"] == 0


def test_stripped_plan_without_its_graph(bench):
    files = bench.build(stripped=True)
    files.weights[0].unlink()
    with pytest.raises(
        EngineLoadError, match=r"count.engine has no weights of its own, and count.onnx is not beside it"
    ):
        bench.run(files.engine)


def test_layers_are_read_from_the_plan_itself(bench):
    files = bench.build()
    assert files.layers_of == "engine"
    assert Layer("increment", "Kernel", ("float32",)) in files.layers


def test_layers_are_the_networks_where_the_plan_cannot_be_opened(bench):
    bench.library.refuse.add("deserialize_cuda_engine")
    files = bench.build()
    assert files.layers_of == "network"
    assert Layer("increment", "PLUGIN_V3", ("float32",)) in files.layers


def test_plan_of_another_version_names_both(bench):
    files = bench.build()
    built_by, bench.library.__version__ = bench.library.__version__, "99.1.0.2"
    with pytest.raises(
        EngineLoadError, match=rf"was built by TensorRT {built_by}, and this is 99.1.0.2; build it again"
    ):
        bench.run(files.engine)


def test_refusals_leave_nothing_behind(bench):
    bench.library.refuse.add("build_serialized_network")
    with pytest.raises(EngineBuildError, match=r"TensorRT refuses network 'count': Could not find any implementation"):
        bench.build()
    bench.library.refuse.add("parse_from_file")
    with pytest.raises(EngineBuildError, match=r"at node 'odd' \(Odd\): it is odd"):
        bench.build()
    bench.library.refuse.add("add_optimization_profile")
    with pytest.raises(EngineBuildError, match=r"TensorRT does not take profile 'full'"):
        bench.build()
    assert list(bench.out.iterdir()) == []


def test_version_names_the_library(bench):
    assert bench.backend.version() == f"tensorrt {bench.library.__version__}"
