"""Which nodes a rule of the fp32 block list holds, and which rules a network gets."""

import pytest

from hsengines.errors import HSError
from hsengines.spec import EngineSpec
from hsexport.families.sd3.fp32_blocks import T5, transformer_rules
from hsexport.networks.network import Fp32Rule, Network


def held(rule, *nodes):
    """Of nodes as "module/operator_2", those that the rule holds."""
    split = {name: name.rpartition("/") for name in nodes}
    return [name for name, (module, _, node) in split.items() if rule.holds(module, node.split("_")[0])]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Fp32Rule("modules", modules=("blocks.3*",)), ["blocks.3/Add", "blocks.31.ff/Gemm"]),
        (Fp32Rule("operators", operators=("Add",)), ["blocks.3/Add", "Add_2"]),
        (Fp32Rule("both", modules=("blocks.*",), operators=("Add",)), ["blocks.3/Add"]),
        (Fp32Rule("everything"), ["blocks.3/Add", "blocks.31.ff/Gemm", "Add_2"]),
    ],
)
def test_a_rule_matches_path_and_operator_but_never_attention(rule, expected):
    assert held(rule, "blocks.3/Add", "blocks.31.ff/Gemm", "Add_2", "blocks.3/Attention") == expected


def rules_of(name, blocks, precision, asked=()):
    network = Network(EngineSpec(name, (), ()), lambda: None, {}, fp32_blocks=blocks)
    return {rule.name: rule for rule in network.fp32_rules(precision, asked)}


def test_block_35_is_for_38_layers_in_fp16():
    name = "SD3.5-Large's block 35"
    assert name in rules_of("large", transformer_rules(38), "fp16")
    assert name not in rules_of("large", transformer_rules(38), "bf16")
    assert name not in rules_of("large", transformer_rules(24), "fp16")
    rule = rules_of("large", transformer_rules(38), "fp16")[name]
    inside = ["transformer_blocks.35.ff.net.2/Gemm", "transformer_blocks.35/Add"]
    assert held(rule, *inside, "transformer_blocks.3/Add", "transformer_blocks.36/Add") == inside


def test_norms_stay_in_every_half_precision_and_a_graph_of_fp32_needs_no_rule():
    assert list(rules_of("text", T5, "bf16")) == ["norms"]
    assert list(rules_of("text", T5, "fp16")) == ["norms", *(rule.name for rule in T5)]
    assert rules_of("text", T5, "fp32", ("norm_out*",)) == {}


def test_text_names_a_network_or_all():
    texts = ["large:transformer_blocks.35*", "norm_out*", "text_*:model.*"]
    assert list(rules_of("large", (), "fp16", texts)) == ["norms", *texts[:2]]
    found = list(rules_of("text_encoder", (), "fp16", texts).values())[1:]
    assert [rule.modules for rule in found] == [("norm_out*",), ("model.*",)]


@pytest.mark.parametrize("text", ["", "large:", ":blocks"])
def test_text_without_modules_is_refused(text):
    with pytest.raises(HSError, match="names no modules; write it like"):
        rules_of("large", (), "fp16", [text])
