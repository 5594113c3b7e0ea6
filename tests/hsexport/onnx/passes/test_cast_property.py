"""Random graphs stay sound under random casts."""

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_graphs import cast_precision, graph, run, saved

from hsexport.networks.network import Fp32Rule
from hsexport.onnx.passes.cast_back import CastBack
from hsexport.onnx.passes.graph_pass import apply

UNARY = ("Neg", "Abs", "Tanh", "Relu", "Transpose <perm = [1, 0]>")
BINARY = ("Add", "Mul", "MatMul", "Concat2")
HALF = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}


@st.composite
def bodies(draw):
    """Up to nine nodes over 2x2 matrices, each of them reading any two values before it; "i" are integers."""
    lines, values = [], ["x", "z", "w", "u"]
    for number in range(draw(st.integers(1, 9))):
        a, b = (draw(st.sampled_from(values)) for _ in range(2))
        kind = draw(st.sampled_from((*UNARY, *BINARY, "Cast", "Where", "Constant", "Split")))
        name = f"v{number}"
        if kind in UNARY:
            lines.append(f"{name} = {kind}({a})")
        elif kind == "Concat2":
            lines.append(f"{name}_c = Concat <axis = 0> ({a}, {b}) {name} = Gather ({name}_c, i)")
        elif kind == "Cast":
            lines.append(f"{name}_i = Cast <to = 7> ({a}) {name} = Cast <to = 1> ({name}_i)")
        elif kind == "Where":
            lines.append(f"{name}_b = Less({a}, {b}) {name} = Where({name}_b, {b}, {a})")
        elif kind == "Constant":
            lines.append(f"{name}_k = Constant <value_float = 1.5> () {name} = Mul({name}_k, {a})")
        elif kind == "Split":
            lines.append(f"{name}_p, {name}_q = Split <axis = 0, num_outputs = 2> ({a}) {name} = Sub({a}, {name}_p)")
        else:
            lines.append(f"{name} = {kind}({a}, {b})")
        values.append(name)
    made = values[4:]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, unique=True))
    return " ".join(lines), outputs


def build(body, outputs):
    weights = {name: np.full((2, 2), 0.3, np.float32) for name in ("w", "u")}
    signature = f"(float[2, 2] x, float[2, 2] z) => ({', '.join(f'float[2, 2] {name}' for name in outputs)})"
    model = graph(body, signature, i=np.array([0, 3]), **weights)
    for number, node in enumerate(model.graph):
        node.name = f"blocks.{number % 3}/{node.op_type}_{number}"
    return model


@settings(max_examples=60)
@given(
    bodies(),
    st.sampled_from(["fp16", "bf16"]),
    st.sets(st.sampled_from(["blocks.0", "blocks.1", "blocks.2"])),
    st.sets(st.sampled_from(["x", "z", "v*", "v1"])),
)
def test_cast_graphs_check_and_run(tmp_path_factory, case, precision, wide, narrow):
    folder = tmp_path_factory.mktemp("property")
    model, reference = build(*case), build(*case)
    rules = [Fp32Rule(module, modules=(module,)) for module in sorted(wide)]
    report = cast_precision(model, precision, sorted(narrow), rules)
    saved(model, folder / "half.onnx")  # the checker infers all types anew and compares
    assert report.narrow + report.wide <= len(list(reference.graph))
    assert [value.name for value in model.graph.outputs] == case[1]

    apply(model, CastBack(precision))
    assert {value.dtype.name for value in (*model.graph.inputs, *model.graph.outputs)} == {"FLOAT"}
    feed = {"x": np.full((2, 2), 0.1, np.float32), "z": np.ones((2, 2), np.float32)}
    found = run(model, folder / "back.onnx", feed)
    expected = run(reference, folder / "fp32.onnx", feed)
    assert all(found[name].shape == expected[name].shape for name in expected)
    if not wide:
        assert all(np.array_equal(v, v.astype(HALF[precision]).astype(v.dtype), equal_nan=True) for v in found.values())
