"""Which nodes an island holds, and which islands a network gets."""

import onnx_ir as ir
import pytest

from hsexport.onnx.passes.graph_pass import PassError
from hsexport.onnx.passes.islands import Island, default_islands, islands_from_text


def node(name):
    return ir.node(name.split("/")[-1].split("_")[0], [], name=name)


@pytest.mark.parametrize(
    ("island", "held"),
    [
        (Island("modules", modules=("blocks.3*",)), ["blocks.3/Add", "blocks.31.ff/Gemm"]),
        (Island("operators", operators=("Add",)), ["blocks.3/Add", "Add_2"]),
        (Island("both", modules=("blocks.*",), operators=("Add",)), ["blocks.3/Add"]),
        (Island("everything"), ["blocks.3/Add", "blocks.31.ff/Gemm", "Add_2"]),
    ],
)
def test_an_island_matches_path_and_operator_but_never_attention(island, held):
    names = ["blocks.3/Add", "blocks.31.ff/Gemm", "Add_2", "blocks.3/Attention"]
    assert [name for name in names if island.holds(node(name))] == held


def names_of(*args):
    return {island.name for island in default_islands(*args)}


def test_block_35_is_for_38_layers_in_fp16():
    name = "SD3.5-Large's block 35"
    assert name in names_of("large", 38, "fp16")
    assert name not in names_of("large", 38, "bf16") | names_of("large", 24, "fp16") | names_of(
        "text_encoder", 38, "fp16"
    )
    island = next(i for i in default_islands("large", 38, "fp16") if i.name == name)
    assert island.holds(node("transformer_blocks.35.ff.net.2/Gemm")) and island.holds(node("transformer_blocks.35/Add"))
    assert not island.holds(node("transformer_blocks.3/Add")) and not island.holds(node("transformer_blocks.36/Add"))


def test_text_names_a_network_or_all():
    texts = ["large:transformer_blocks.35*", "norm_out*", "text_*:model.*"]
    assert [i.name for i in islands_from_text(texts, "large")] == texts[:2]
    assert [i.modules for i in islands_from_text(texts, "text_encoder")] == [("norm_out*",), ("model.*",)]


@pytest.mark.parametrize("text", ["", "large:", ":blocks"])
def test_text_without_modules_is_refused(text):
    with pytest.raises(PassError, match="names no modules; write it like"):
        islands_from_text([text], "large")
