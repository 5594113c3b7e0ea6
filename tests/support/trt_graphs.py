"""Small ONNX graphs with their specs, for what builds and runs TensorRT engines."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hsengines.spec import DimRange, EngineSpec, Profile, TensorSpec

ONNX_DTYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
}


def save_graph(folder, spec, nodes, constants=()):
    """Writes <name>.onnx and its weights beside it, as an export does; the graph's I/O signature is the spec's."""
    graph = helper.make_graph(
        nodes,
        spec.name,
        [_value(tensor) for tensor in spec.inputs],
        [_value(tensor) for tensor in spec.outputs],
        [numpy_helper.from_array(array, name) for name, array in dict(constants).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    path = folder / f"{spec.name}.onnx"
    onnx.save(
        model, path, save_as_external_data=True, all_tensors_to_one_file=True, location=f"{path.name}.data",
        size_threshold=0,
    )  # fmt: skip
    return path


def _value(tensor):
    return helper.make_tensor_value_info(tensor.name, ONNX_DTYPES[tensor.dtype], tensor.shape)


def tensor(name, dtype, *shape):
    """A TensorSpec."""
    return TensorSpec(name, dtype, shape)


def profile(name, **dims):
    """A profile; each dimension by (minimum, optimum, maximum)."""
    return Profile(name, {dim: DimRange(*extents) for dim, extents in dims.items()})


def attention_network(folder, dtype="float16", name="attend"):
    """(path, spec) of an attention between products, with tokens N and cached tokens R as large has them."""
    past = [tensor(f"past_{which}", dtype, "B", 2, "R", 64) for which in "kv"]
    spec = EngineSpec(
        name,
        (tensor("x", dtype, "B", 2, "N", 64), *past),
        (tensor("y", dtype, "B", 2, "N", 64),),
        (
            profile("full", B=(1, 2, 4), N=(1, 16, 32), R=(0, 0, 0)),
            profile("region", B=(1, 2, 4), N=(1, 8, 32), R=(0, 8, 31)),
        ),
    )
    # Attention over one tensor as query, key and value alike would bring TensorRT-RTX down.
    nodes = [
        *(helper.make_node("MatMul", ["x", f"weight_{w}"], [f"new_{w}"], name=f"to_{w}") for w in "qkv"),
        *(helper.make_node("Concat", [f"past_{w}", f"new_{w}"], [w], name=f"join_{w}", axis=2) for w in "kv"),
        helper.make_node("Attention", ["new_q", "k", "v"], ["a"], name="attend"),
        helper.make_node("Add", ["a", "x"], ["y"], name="add"),
    ]
    weight = np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    constants = {f"weight_{w}": (weight * scale).astype(_numpy(dtype)) for scale, w in enumerate("qkv", 1)}
    return save_graph(folder, spec, nodes, constants), spec


def _numpy(dtype):
    if dtype == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return dtype


def counting_network(folder, name="count"):
    """(path, spec) in fp32: y = 2 x + 1 and total = the sum of x and z, a row each; z may be empty."""
    spec = EngineSpec(
        name,
        (tensor("x", "float32", "B", "N"), tensor("z", "float32", "B", "R")),
        (tensor("y", "float32", "B", "N"), tensor("total", "float32", "B", 1)),
        (
            profile("full", B=(1, 1, 4), N=(8, 8, 8), R=(0, 0, 0)),
            profile("region", B=(1, 1, 4), N=(1, 4, 8), R=(0, 4, 8)),
        ),
    )
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["xx"], name="double"),
        helper.make_node("Add", ["xx", "one"], ["y"], name="increment"),
        helper.make_node("Concat", ["x", "z"], ["all"], name="join", axis=1),
        helper.make_node("ReduceSum", ["all", "rows"], ["total"], name="sum"),
    ]
    constants = {"two": np.float32([2]), "one": np.float32([1]), "rows": np.int64([1])}
    return save_graph(folder, spec, nodes, constants), spec
