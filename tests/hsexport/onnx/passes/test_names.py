"""Every node of a real export is named after its module."""

import re

import onnx_ir as ir
import pytest
from onnx_graphs import graph

from hsexport.onnx.onnx_export import export_onnx
from hsexport.onnx.passes.graph_pass import PassError, apply
from hsexport.onnx.passes.name_by_module import SCOPES, NameByModule, UniqueNames, block_of, module_path


def scoped(model, *scopes):
    for node, scope in zip(model.graph, scopes, strict=True):
        if scope is not None:
            node.metadata_props[SCOPES] = repr(["", *scope, "fx_node"])
    return model


def chain():
    return graph("a = Neg(x) b = Abs(a) y = Add(b, a)", "(float[2] x) => (float[2] y)")


def test_attention_and_residual_sums_lie_in_their_blocks(tiny_onnx):
    names = [node.name for node in tiny_onnx("large").graph]
    # Block 0 has dual attention, so two attention nodes; the last block has no text stream.
    attention = [name for name in names if name.split("/")[-1].startswith("Attention")]
    assert attention == [
        "transformer_blocks.0/Attention",
        "transformer_blocks.0/Attention_2",
        "transformer_blocks.1/Attention",
        "transformer_blocks.2/Attention",
    ]
    assert sum(bool(re.fullmatch(r"transformer_blocks\.0/Add(_\d)?", name)) for name in names) >= 5
    assert "transformer_blocks.1.attn.to_q/Gemm" in names


@pytest.mark.parametrize(
    ("network", "attention"),
    [
        ("text_encoder", "model.text_model.encoder.layers.1.self_attn/Attention"),
        ("text_encoder_3", "model.encoder.block.1.layer.0.SelfAttention/Softmax"),
        ("vae_decoder", "decoder.mid_block.attentions.0/Attention"),
    ],
)
def test_other_networks(tiny_onnx, network, attention):
    assert attention in [node.name for node in tiny_onnx(network).graph]


@pytest.mark.parametrize("network", ["large", "text_encoder", "text_encoder_3", "vae_decoder"])
def test_names_are_unique_and_say_the_operator(tiny_onnx, network):
    nodes = list(tiny_onnx(network).graph)
    assert len({node.name for node in nodes}) == len(nodes)
    assert all(re.fullmatch(rf"(.*/)?{node.op_type}(_\d+)?", node.name) for node in nodes)


@pytest.mark.slow
def test_two_exports_are_equal_byte_for_byte(tiny_networks, tmp_path):
    network = tiny_networks["text_encoder_3"]
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        export_onnx(network, tmp_path / folder)
    first, second = ({f.name: f.read_bytes() for f in (tmp_path / folder).iterdir()} for folder in ("first", "second"))
    assert first == second and "text_encoder_3.onnx" in first


def test_functional_code_gets_the_block_of_its_latest_producer():
    model = scoped(chain(), ["blocks.0", "blocks.0.to_out.0"], ["blocks.1.norm"], None)
    apply(model, NameByModule())
    assert [node.name for node in model.graph] == ["blocks.0.to_out.0/Neg", "blocks.1.norm/Abs", "blocks.1/Add"]


def test_without_a_block_the_operator_alone():
    model = scoped(chain(), [], ["proj_out"], None)
    apply(model, NameByModule())
    assert [node.name for node in model.graph] == ["Neg", "proj_out/Abs", "Add"]


def test_repeated_names_are_numbered():
    names = UniqueNames(["a/Add"])
    assert [names.unique("a/Add") for _ in range(2)] + [names.unique("a/Mul")] == ["a/Add_2", "a/Add_3", "a/Mul"]


def test_a_stripped_graph_is_refused():
    with pytest.raises(PassError, match="which module it came from; name the nodes before metadata is stripped"):
        apply(chain(), NameByModule())


def test_a_graph_out_of_order_is_refused():
    model = scoped(chain(), [], [], [])
    neg = model.graph[0]
    model.graph.remove(neg)
    model.graph.append(neg)
    with pytest.raises(PassError, match="comes before its input's node"):
        apply(model, NameByModule())


def test_a_subgraph_is_left_to_lint():
    branches = "then_branch = t () => (float[1] a) { a = Neg(x) }, else_branch = e () => (float[1] b) { b = Abs(x) }"
    model = scoped(graph(f"y = If(c) <{branches}>", "(bool c, float[1] x) => (float[1] y)"), ["blocks.0"])
    apply(model, NameByModule())
    assert [node.name for node in model.graph] == ["blocks.0/If"]


@pytest.mark.parametrize(
    ("path", "block"),
    [
        ("transformer_blocks.7.attn.to_out.0", "transformer_blocks.7"),
        ("model.encoder.block.3.layer.1", "model.encoder.block.3"),
        ("time_text_embed.timestep_embedder.linear_1", ""),
        ("", ""),
    ],
)
def test_the_block_is_the_outermost_numbered_module(path, block):
    assert block_of(path) == block


def test_module_path():
    assert module_path(ir.node("Add", [], name="a.b/Add_2")) == "a.b"
    assert module_path(ir.node("Add", [], name="Add")) == ""
