"""Graphs that no build writes are refused before ONNX Runtime sees them."""

import onnx
import pytest
from onnx import TensorProto, helper

from hsengines import screening
from hsengines.errors import EngineLoadError
from hsengines.screening import screen


def value(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])


def saved(path, nodes, functions=(), domains=("",)):
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y")])
    opsets = [helper.make_opsetid(domain, 1 if domain else 20) for domain in domains]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=list(functions)), path)
    return path


def test_a_build_s_graph_passes(tiny_bundle):
    for file in (tiny_bundle / "engines").rglob("*.onnx"):
        screen(file)


def test_loops_and_branches_are_refused(tmp_path):
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "b", [], [value("z")])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    with pytest.raises(EngineLoadError, match=r"x\.onnx was not written by a build: it has control flow"):
        screen(saved(tmp_path / "x.onnx", [branch]))


def test_functions_are_refused(tmp_path):
    node = helper.make_node("F", ["x"], ["y"], domain="ai.onnx")
    function = helper.make_function(
        "f", "F", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], [helper.make_opsetid("", 20)]
    )
    with pytest.raises(EngineLoadError, match="it defines functions"):
        screen(saved(tmp_path / "x.onnx", [node], [function]))


def test_operators_of_others_are_refused(tmp_path):
    node = helper.make_node("CDist", ["x", "x"], ["y"], domain="com.microsoft")
    with pytest.raises(EngineLoadError, match=r"it has the operator b'CDist' of b'com\.microsoft'"):
        screen(saved(tmp_path / "x.onnx", [node], domains=("", "com.microsoft")))


def test_too_many_nodes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(screening, "MOST_NODES", 3)
    nodes = [helper.make_node("Identity", ["x"], [f"y{i}"]) for i in range(4)]
    with pytest.raises(EngineLoadError, match="it has 4 nodes"):
        screen(saved(tmp_path / "x.onnx", nodes))


@pytest.mark.parametrize("data", [b"\x0b", b"\xff" * 20, b"\x3a\x7f", b"\x3a\x02\x0a\x05"])
def test_what_is_no_message_is_refused(tmp_path, data):
    """A group (0x0b) would be skipped by others' readers, and hide what follows."""
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(EngineLoadError, match="it is no ONNX file"):
        screen(tmp_path / "x.onnx")
