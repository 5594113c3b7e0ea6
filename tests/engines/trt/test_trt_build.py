"""Engines built with the real TensorRT-RTX, on whatever machine this is."""

import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from trt_graphs import attention_network, profile

from hsengines.backend import get_backend
from hsengines.build import Layer, build_options
from hsengines.errors import EngineBuildError, HSError

pytest.importorskip("tensorrt_rtx")

PRECISIONS = {"fp16": "float16", "bf16": "bfloat16"}


@pytest.fixture(scope="module")
def backend():
    return get_backend("tensorrt-rtx")


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def options(**given):
    return build_options("tensorrt-rtx", **{"precision": "fp16", "architectures": (89,), **given})


@pytest.mark.parametrize("precision", PRECISIONS)
def test_builds_both_profiles_for_several_architectures_without_a_gpu(tmp_path, out, backend, precision):
    onnx, spec = attention_network(tmp_path, PRECISIONS[precision])
    files = backend.build(onnx, spec, options(precision=precision, architectures=(89, 120)), out)
    assert files.engine == out / "attend.engine"
    assert files.engine.stat().st_size > onnx.with_name("attend.onnx.data").stat().st_size
    assert files.weights == ()
    assert sorted(out.iterdir()) == [files.engine]
    assert "Engine generation completed" in files.log


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layers_carry_the_graphs_node_names_and_dtypes(tmp_path, out, backend, precision):
    dtype = PRECISIONS[precision]
    onnx, spec = attention_network(tmp_path, dtype)
    files = backend.build(onnx, spec, options(precision=precision), out)
    assert files.layers_of == "network"
    assert Layer("to_q", "MATRIX_MULTIPLY", (dtype,)) in files.layers
    assert Layer("attend", "ATTENTION_OUTPUT", (dtype,)) in files.layers
    assert {layer.name for layer in files.layers} == {"to_q", "to_k", "to_v", "join_k", "join_v", "attend", "add"}


def test_architectures_decide_what_comes_out(tmp_path, out, backend):
    onnx, spec = attention_network(tmp_path)
    for each in ((89,), (75, 89)):
        (out / str(len(each))).mkdir()
    ada = backend.build(onnx, spec, options(architectures=(89,)), out / "1").engine
    turing_too = backend.build(onnx, spec, options(architectures=(89, 75)), out / "2").engine
    assert ada.read_bytes() != turing_too.read_bytes()


def test_default_is_every_architecture_with_bf16(backend):
    assert backend.target(build_options("tensorrt-rtx")) == "sm_80, sm_86, sm_89, sm_120, sm_121"
    assert backend.target(options(architectures=(120, 89))) == "sm_89, sm_120"


def test_key_tells_what_decides_the_engine_and_nothing_else(backend):
    facts = backend.key_facts(options())
    assert facts["architectures"] == "89"
    assert backend.key_facts(options(precision="bf16")) == facts  # the graph has a digest of its own
    for other in (options(architectures=(120,)), options(weight_streaming=True), options(workspace_mb=64)):
        assert backend.key_facts(other) != facts


def test_weight_streaming_and_limits_build(tmp_path, out, backend):
    onnx, spec = attention_network(tmp_path)
    assert backend.build(
        onnx, spec, options(weight_streaming=True, workspace_mb=256, aux_streams=1), out
    ).engine.exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"precision": "fp32"}, "fp16 or bf16, not fp32: it has no attention kernels"),
        ({"precision": "int8"}, "not int8"),
        (
            {"architectures": (89, 90)},
            r"--arch 90: it knows 75, 80, 86, 89, 120, 121; datacenter GPUs such as the H100",
        ),
        ({"architectures": (17,)}, r"--arch 17: it knows 75, 80, .*; give compute capabilities such as 89"),
        ({"architectures": (75,), "precision": "bf16"}, "bf16 for --arch 75, which has no bf16"),
        ({"stripped": True}, "cannot build with --strip: it strips plans on a machine with a GPU only"),
        ({"version_compatible": True}, "cannot build with --version-compatible"),
        ({"hardware": "ampere"}, "cannot build with --hardware: .* --arch"),
    ],
)
def test_options_it_cannot_build_with_are_refused_before_any_work(backend, given, told):
    with pytest.raises(EngineBuildError, match=told):
        backend.check_options(options(**given))


def test_dimension_without_a_range_is_named(tmp_path, out, backend):
    onnx, spec = attention_network(tmp_path)
    spec = replace(spec, profiles=(profile("all", B=(1, 2, 4), N=(1, 16, 32)),))
    with pytest.raises(EngineBuildError, match=r"'attend', input 'past_k': dimension R has no range in profile 'all'"):
        backend.build(onnx, spec, options(), out)


def test_network_that_is_not_what_the_spec_says_is_refused(tmp_path, out, backend):
    onnx, spec = attention_network(tmp_path)
    wide = replace(spec, outputs=(replace(spec.outputs[0], dtype="float32"),))
    told = "another tensor 'y' than its spec: found output float16 of 4 dimensions, expected output float32"
    with pytest.raises(EngineBuildError, match=told):
        backend.build(onnx, wide, options(), out)
    with pytest.raises(EngineBuildError, match=r"other tensors than its spec: past_k, past_v"):
        backend.build(onnx, replace(spec, inputs=spec.inputs[:1]), options(), out)


def test_progress_is_told_step_by_step(tmp_path, out, backend):
    onnx, spec = attention_network(tmp_path)
    told = []
    backend.build(onnx, spec, options(), out, lambda *each: told.append(each))
    assert told[0] == ("Building engine", 0, 6)
    assert told[-1] == ("Building engine", 6, 6)
    assert len({phase for phase, *_ in told}) > 5
    assert all(0 <= step <= steps for _, step, steps in told)


def test_ctrl_c_in_a_process_where_nothing_else_has_been():
    """After what other tests loaded, OpenVINO's plugins say, the kernel may fail to deliver a signal."""
    interrupts = Path(__file__).with_name("interrupts.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", interrupts]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def test_whatever_a_listener_raises_ends_the_build_and_comes_out(tmp_path, out, backend):
    onnx, spec = attention_network(tmp_path)

    def break_down(*each):
        raise HSError("the terminal is gone")

    with pytest.raises(HSError, match=r"the terminal is gone"):
        backend.build(onnx, spec, options(), out, break_down)
    assert list(out.iterdir()) == []


def test_version_names_builder_and_release(backend):
    import tensorrt_rtx

    assert backend.version() == f"tensorrt-rtx {tensorrt_rtx.__version__}"
