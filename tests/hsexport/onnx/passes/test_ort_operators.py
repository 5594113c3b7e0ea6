"""The graphs that ONNX Runtime's CPU gets answer what the exported ones answer."""

import re

import numpy as np
import onnx_ir as ir
import pytest
from onnx_graphs import graph, name_nodes, run, saved

from hsengines.ort.cpu import run_graph
from hsexport.onnx.passes.graph_pass import apply
from hsexport.onnx.passes.ort_operators import OrtOperators

ROWS, TOKENS, HEADS, SIZE = 2, 5, 3, 4
WIDTH = HEADS * SIZE
rng = np.random.default_rng(0)


def random(*shape):
    return rng.standard_normal(shape).astype(np.float32)


WEIGHTS = {"w": random(WIDTH, WIDTH), "b": random(WIDTH), "s": random(SIZE), "shape": [ROWS, TOKENS, HEADS, SIZE]}
GELU = (
    'g = Gemm<transB = 1>(x, w, b)\n y = Gelu<approximate = "tanh">(g)',
    f"(float[n, {WIDTH}] x) => (float[n, {WIDTH}] y)",
)
NORM = (
    "g = Gemm<transB = 1>(x, w, b)\n h = Reshape<allowzero = 1>(g, shape)\n"
    " y = RMSNormalization<axis = -1, epsilon = 0.001>(h, s)",
    f"(float[{ROWS * TOKENS}, {WIDTH}] x) => (float[{ROWS}, {TOKENS}, {HEADS}, {SIZE}] y)",
)
ATTENTION = (
    "q = Transpose<perm = [0, 2, 1, 3]>(x)\n k = Transpose<perm = [0, 2, 1, 3]>(p)\n"
    " v = Transpose<perm = [0, 2, 1, 3]>(p)\n a = Attention(q, k, v)\n y = Transpose<perm = [0, 2, 1, 3]>(a)",
    f"(float[2, n, {HEADS}, {SIZE}] x, float[2, m, {HEADS}, {SIZE}] p) => (float[2, n, {HEADS}, {SIZE}] y)",
)


def made(case):
    body, signature = case
    read = re.findall(r"\w+", body)
    return graph(body, signature, **{name: array for name, array in WEIGHTS.items() if name in read})


def operators(model):
    return [node.op_type for node in model.graph if node.op_type != "Reshape"]


@pytest.mark.parametrize(
    ("case", "feed", "expected"),
    [
        (GELU, {"x": random(7, WIDTH)}, ["MatMul", "FastGelu"]),
        (NORM, {"x": random(ROWS * TOKENS, WIDTH)}, ["MatMul", "SkipSimplifiedLayerNormalization"]),
        (ATTENTION, {"x": random(ROWS, 6, HEADS, SIZE), "p": random(ROWS, 9, HEADS, SIZE)}, ["Attention"]),
    ],
)
def test_each_rewrite_answers_the_same(tmp_path, case, feed, expected):
    before, after = run(made(case), tmp_path / "before.onnx", feed), made(case)
    apply(after, OrtOperators())
    assert operators(after) == expected
    found = run_graph(_saved(after, tmp_path / "after.onnx"), feed)
    np.testing.assert_allclose(found["y"], before["y"], atol=2e-6, rtol=1e-5)


def _saved(model, path):
    """Not checked: ONNX's own checker knows no operators of others."""
    ir.save(model, path)
    return path


def test_weights_keep_their_names_and_lie_as_the_product_takes_them():
    model = made(GELU)
    apply(model, OrtOperators())
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), WEIGHTS["w"].T)


def test_new_nodes_are_called_after_their_module():
    model = made(("r = Relu(x)\n" + NORM[0].replace("(x, w", "(r, w"), NORM[1]))
    name_nodes(model, "b.act/Relu", "b.to_q/Gemm", "b/Reshape", "b.norm_q/RMSNormalization")
    apply(model, OrtOperators())
    names = [node.name for node in model.graph]
    assert "b.act/SkipSimplifiedLayerNormalization" in names and len(set(names)) == len(names)


@pytest.mark.parametrize(
    "case",
    [
        # The product is read elsewhere, with its bias.
        (GELU[0] + "\n z = Identity(g)", GELU[1].replace(" y)", f" y, float[n, {WIDTH}] z)")),
        (GELU[0].replace('"tanh"', '"none"'), GELU[1]),
        (ATTENTION[0].replace("Attention(", "Attention<is_causal = 1>("), ATTENTION[1]),
        # What comes back has size before heads.
        (
            ATTENTION[0].replace("[0, 2, 1, 3]>(a)", "[0, 2, 3, 1]>(a)"),
            ATTENTION[1].replace(f"{HEADS}, {SIZE}] y", f"{SIZE}, {HEADS}] y"),
        ),
    ],
)
def test_what_is_not_the_same_stays(tmp_path, case):
    model = made(case)
    before = operators(model)
    apply(model, OrtOperators())
    assert operators(model) == before
    saved(model, tmp_path / "m.onnx")
