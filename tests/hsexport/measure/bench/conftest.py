"""A judge of a few numbers, real in every other way."""

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

NAMES = ["abc", "fox", "tree", "xyz", "owl", "bee"]


def make_judge(folder, names, features=5):
    """Judges by the mean colour alone: features are a random product with it, logits one with the features."""
    rng = np.random.default_rng(3)
    weights = {
        "w1": rng.normal(size=(3, features)).astype(np.float32),
        "w2": rng.normal(size=(features, len(names))).astype(np.float32),
        "scale": np.float32(1 / 255),
        "axes": np.array([1, 2], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["pictures"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["colour"], keepdims=0),
        helper.make_node("Mul", ["colour", "scale"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "w1"], ["features"]),
        helper.make_node("MatMul", ["features", "w2"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "judge",
        [helper.make_tensor_value_info("pictures", TensorProto.UINT8, ["B", "H", "W", 3])],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", features]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", len(names)]),
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    folder.mkdir(parents=True)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "judge.onnx")
    real = rng.uniform(size=(64, 3)) @ weights["w1"]
    np.savez(folder / "reference.npz", mean=real.mean(0), covariance=np.cov(real, rowvar=False))
    (folder / "captions.json").write_text(json.dumps(names))
    return folder


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory):
    return make_judge(tmp_path_factory.mktemp("judge") / "judge", NAMES)
