"""What the real TensorRT-RTX refuses, and in which words users hear of it."""

import numpy as np
import pytest
from onnx import helper
from trt_graphs import attention_network, profile, save_graph, tensor

from hsengines.backend import get_backend
from hsengines.errors import EngineBuildError
from hsengines.spec import EngineSpec
from hsengines.trt.build.refusals import in_short, known_refusal
from hsengines.trt.options import RtxOptions

tensorrt_rtx = pytest.importorskip("tensorrt_rtx")
make_node = helper.make_node


def network(folder, inputs, outputs, nodes, constants=(), **dims):
    """(path, spec) of a network called odd."""
    spec = EngineSpec("odd", tuple(inputs), tuple(outputs), (profile("all", **dims),) if dims else ())
    return save_graph(folder, spec, nodes, constants), spec


def refusal_of(built):
    """The error that building gives; one line and a remedy, with the whole log kept."""
    onnx, spec = built
    backend = get_backend("tensorrt-rtx")
    (onnx.parent / "out").mkdir()
    with pytest.raises(EngineBuildError) as raised:
        backend.build(onnx, spec, RtxOptions(precision="fp16", architectures=(89,)), onnx.parent / "out")
    assert "\n" not in str(raised.value)
    assert raised.value.hint
    assert list((onnx.parent / "out").iterdir()) == []
    return raised.value


def test_fp32_attention_is_told_by_the_layers_name(tmp_path):
    error = refusal_of(attention_network(tmp_path, "float32"))
    assert (
        error.message == "TensorRT-RTX refuses network 'attend' at layer 'attend': it has no kernel for this attention"
    )
    assert "--precision fp16 or bf16" in error.hint
    assert "decompose_composite_ops" in error.log
    assert "[INFO]" in error.log


def test_attention_with_several_outputs(tmp_path):
    slot = ("B", 2, "N", 64)
    inputs = [tensor(name, "float16", *slot) for name in ("q", "k", "v", "pk", "pv")]
    node = make_node("Attention", ["q", "k", "v", "", "pk", "pv"], ["y", "nk", "nv"], name="block/attn")
    outputs = [tensor("y", "float16", *slot), *(tensor(n, "float16", "B", 2, "2*N", 64) for n in ("nk", "nv"))]
    error = refusal_of(network(tmp_path, inputs, outputs, [node], B=(1, 1, 2), N=(1, 8, 8)))
    told = "at node 'block/attn' (Attention): it takes Attention nodes with one output only"
    assert error.message == f"TensorRT-RTX refuses network 'odd' {told}"
    assert "outside the Attention node" in error.hint


def test_large_topk(tmp_path):
    inputs, outputs = (
        [tensor("x", "float16", "B", 8192)],
        [tensor("v", "float16", "B", 4000), tensor("i", "int64", "B", 4000)],
    )
    node = make_node("TopK", ["x", "k"], ["v", "i"], name="pick")
    error = refusal_of(network(tmp_path, inputs, outputs, [node], {"k": np.int64([4000])}, B=(1, 1, 2)))
    told = "at layer 'pick': ITopKLayer pick: pick: K exceeds the maximum value allowed (3840)"
    assert error.message == f"TensorRT-RTX refuses network 'odd' {told}"
    assert "fewer elements" in error.hint


@pytest.mark.parametrize(
    ("operator", "outputs", "words"),
    [
        ("NonZero", [tensor("y", "int64", 1, "n")], "it has no NonZero here"),
        ("Unique", [tensor("y", "float16", "n")], "UNSUPPORTED_NODE: it does not have this operator"),
    ],
)
def test_operators_it_lacks(tmp_path, operator, outputs, words):
    node = make_node(operator, ["x"], ["y"], name="strange")
    error = refusal_of(network(tmp_path, [tensor("x", "float16", "B")], outputs, [node], B=(1, 1, 2)))
    assert error.message == f"TensorRT-RTX refuses network 'odd' at node 'strange' ({operator}): {words}"


def test_two_dtypes_at_one_node(tmp_path):
    inputs = [tensor("x", "float16", "B"), tensor("z", "float32", "B")]
    node = make_node("Add", ["x", "z"], ["y"], name="mix")
    error = refusal_of(network(tmp_path, inputs, [tensor("y", "float16", "B")], [node], B=(1, 1, 2)))
    assert "at node 'mix' (Add): mix: ElementWiseOperation SUM must have same input types." in error.message
    assert "cast the node's inputs to one dtype" in error.hint


def test_ranges_that_cannot_hold_together(tmp_path):
    inputs = [tensor("x", "float16", "B", 4), tensor("z", "float16", "C", 4)]
    node = make_node("Concat", ["x", "z"], ["y"], name="join", axis=1)
    outputs = [tensor("y", "float16", "B", 8)]
    error = refusal_of(network(tmp_path, inputs, outputs, [node], B=(1, 2, 2), C=(1, 3, 3)))
    assert "at layer 'join': kOPT values for profile 0 violate shape constraints" in error.message
    assert "/_src/" not in error.message
    assert "one range" in error.hint


def test_damaged_file(tmp_path):
    onnx, spec = attention_network(tmp_path)
    onnx.write_bytes(b"\x08garbage" * 50)
    error = refusal_of((onnx, spec))
    assert error.message == "TensorRT-RTX refuses network 'attend': the file is no ONNX model"
    assert "export the network again" in error.hint


def test_weights_missing_or_cut_short(tmp_path):
    onnx, spec = attention_network(tmp_path)
    data = onnx.with_name("attend.onnx.data")
    data.write_bytes(data.read_bytes()[:100])
    error = refusal_of((onnx, spec))
    assert "offset/length out of range for file" in error.message
    assert "weights' file beside the ONNX file is missing or cut short" in error.hint
    data.unlink()
    (tmp_path / "out").rmdir()
    assert f"Failed to open file: {data}" in refusal_of((onnx, spec)).message


def test_missing_file(tmp_path):
    onnx, spec = attention_network(tmp_path)
    onnx.unlink()
    assert refusal_of((onnx, spec)).message == "TensorRT-RTX refuses network 'attend': the file is missing"


def test_bf16_for_an_architecture_without_it(tmp_path, monkeypatch):
    """The builder's own refusal, which the check of options comes before."""
    onnx, spec = attention_network(tmp_path, "bfloat16")

    def for_turing(config, options):
        config.num_compute_capabilities = 1
        config.set_compute_capability(tensorrt_rtx.ComputeCapability.SM75, 0)

    backend = get_backend("tensorrt-rtx")
    monkeypatch.setattr(backend, "_configure", for_turing)
    with pytest.raises(
        EngineBuildError, match=r"Cannot compile for target.s. sm75.* datatypes: b16; bf16 needs"
    ) as raised:
        backend.build(onnx, spec, RtxOptions(precision="bf16"), tmp_path)
    assert not (tmp_path / f"{spec.name}.engine").exists()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Error Code 2: OutOfMemory (Requested size was 999 bytes.)", "free memory"),
        ("Error Code 10: Internal Error (Could not find any implementation for node x.)", "workspace limit"),
        ("Error Code 1: Myelin (graph_jit.cpp:278: CHECK(status == CUDA_SUCCESS) failed.)", "NVIDIA GPU"),
        ("Found unsupported datatype INT64 when importing", "int32"),
        ("something else", "the builder's log has the details"),
    ],
)
def test_refusals_that_this_machine_cannot_provoke_have_remedies_too(said, hint):
    assert hint in known_refusal(said).hint


def test_short_words_are_one_line_without_source_files():
    long = "IBuilder: Error Code 4: API Usage Error (ITopKLayer a: K is 3.\nIn f at /_s/x.cpp:1 In g at /_s/y.cpp:2)"
    assert in_short(long) == "ITopKLayer a: K is 3"
    assert in_short("Assertion failed: a::b() == 1: Only one will do.") == "Only one will do"
    assert len(in_short("word " * 100)) < 210
