"""Fp32 graphs that round like half ones, run on ONNX Runtime's CPU provider."""

import ml_dtypes
import numpy as np
import pytest
from onnx_graphs import cast_precision, graph, run

from hsexport.networks.network import Fp32Rule
from hsexport.onnx.passes.cast_back import CastBack
from hsexport.onnx.passes.expose_blocks import ExposeBlocks
from hsexport.onnx.passes.graph_pass import apply

# Largest error over the reference's largest value, per block and output. A rounding costs 2^-11 in fp16 and 2^-8 in
# bf16; some ten of them in a row add up in each residual block. Measured: 0.4e-2 and 3.2e-2 at worst, in T5.
TOLERANCE = {"fp16": 1e-2, "bf16": 8e-2}
# fp16 kernels of ONNX Runtime's CPU provider round at other places than after every operator.
FP16_KERNELS = 5e-3


def rounded(model, precision, rules=(), narrow=()):
    cast_precision(model, precision, narrow, rules)
    apply(model, CastBack(precision))
    return model


def error(found, expected):
    return float(np.abs(found - expected).max() / max(1e-6, np.abs(expected).max()))


def feed_of(network):
    feed = network.sample_inputs(seed=3)
    if "timestep" in feed:
        feed["timestep"] = np.array([431.0], np.float32)
    return feed


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["large", "text_encoder", "text_encoder_3", "vae_decoder"])
def test_block_by_block_near_fp32(tiny_onnx, tiny_networks, tmp_path, name, precision):
    reference, model, feed = tiny_onnx(name), tiny_onnx(name), feed_of(tiny_networks[name])
    rounded(model, precision, tiny_networks[name].fp32_rules(precision), ("past_*", "present_*"))
    exposed, found_exposed = ExposeBlocks(), ExposeBlocks()
    apply(reference, exposed)
    apply(model, found_exposed)
    blocks, found_blocks = exposed.outputs, found_exposed.outputs
    assert list(blocks) == list(found_blocks)
    expected, found = run(reference, tmp_path / "reference.onnx", feed), run(model, tmp_path / "back.onnx", feed)
    errors = {block: error(found[found_blocks[block]], expected[blocks[block]]) for block in blocks}
    errors |= {t.name: error(found[t.name], expected[t.name]) for t in tiny_networks[name].spec.outputs}
    assert max(errors.values()) < TOLERANCE[precision], errors
    # Something was rounded: fp32 against itself would come within 1e-6.
    assert min(errors.values()) > TOLERANCE[precision] / 200, errors


def test_fp16_kernels_agree_with_the_cast_back(tiny_onnx, tiny_networks, tmp_path):
    half, back, feed = tiny_onnx("large"), tiny_onnx("large"), feed_of(tiny_networks["large"])
    rules = tiny_networks["large"].fp32_rules("fp16")
    cast_precision(half, "fp16", rules=rules)
    rounded(back, "fp16", rules)
    found, expected = run(half, tmp_path / "half.onnx", feed), run(back, tmp_path / "back.onnx", feed)
    errors = {name: error(found[name], expected[name]) for name in expected}
    assert max(errors.values()) < FP16_KERNELS, errors


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_every_answer_is_rounded_once(tmp_path, precision, dtype):
    model = rounded(graph("a = Mul(x, x) y = Add(a, x)", "(float[999] x) => (float[999] y)"), precision)
    x = np.random.default_rng(0).standard_normal(999, dtype=np.float32)
    found = run(model, tmp_path / "m.onnx", {"x": x})["y"]

    def half(array):
        return array.astype(dtype).astype(np.float32)

    assert np.array_equal(found, half(half(half(x) * half(x)) + half(x)))
    assert not np.array_equal(found, x * x + x)


def squares():
    return graph("a = Mul(x, x) y = Sqrt(a)", "(float[2] x) => (float[2] y)")


@pytest.mark.parametrize(
    ("precision", "rules", "finite"),
    [("fp16", (), False), ("bf16", (), True), ("fp16", (Fp32Rule("squares", operators=("Mul", "Sqrt")),), True)],
)
def test_what_leaves_fp16_shows_as_infinity(tmp_path, precision, rules, finite):
    """300 squared is beyond 65504."""
    model = rounded(squares(), precision, rules)
    y = run(model, tmp_path / "m.onnx", {"x": np.array([300, 2], np.float32)})["y"]
    assert np.isfinite(y[0]) == finite and y[1] == pytest.approx(2, rel=0.01)


def test_weights_hold_rounded_values_and_the_signature_is_fp32(tmp_path):
    third = np.array([1 / 3, 2 / 3], np.float32)
    model = graph("y = Add(x, w)", "(float[2] x) => (float[2] y)", w=third)
    rounded(model, "fp16", narrow=("*",))
    assert {value.dtype.name for value in (*model.graph.inputs, *model.graph.outputs)} == {"FLOAT"}
    weight = model.graph.initializers["w"].const_value.numpy()
    assert weight.dtype == np.float32 and np.array_equal(weight, third.astype(np.float16).astype(np.float32))
    x = np.array([1 / 7, 0], np.float32)
    found = run(model, tmp_path / "m.onnx", {"x": x})["y"]
    assert np.array_equal(found, (x.astype(np.float16) + third.astype(np.float16)).astype(np.float32))


def test_moved_numbers_are_not_rounded_again(tmp_path):
    body = "a = Neg(x) b = Transpose(a) c = Reshape(b, n) y = Abs(c)"
    model = graph(body, "(float[2, 3] x) => (float[6] y)", n=np.array([6]))
    rounded(model, "bf16")
    # Two behind each of x, Neg and Abs, and the output's own; none behind Transpose and Reshape.
    assert sum(node.op_type == "Cast" for node in model.graph) == 7
