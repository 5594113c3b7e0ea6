"""Counted operations beside published numbers and beside torch's own counter, at the models' real sizes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hsexport.families.sd3.config import TransformerConfig
from hsexport.families.sd3.counts import modulation_chunks, transformer_operations
from hsexport.families.sd3.transformer import TokenTransformer, transformer_like
from hsruntime.facts import Defaults, Facts, Latent, Positions, Sigmas, Sizes, TextSide, Transformer
from hsruntime.schedule.arithmetic import predicted_speedup, schedule_flops, step_flops
from hsruntime.schedule.presets import schedule_from_text

TOKENS, TEXT = 4096, 333  # 1024x1024 pixels; one CLIP's length and T5's


def config(layers, heads, dual=()):
    return TransformerConfig(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=layers,
        num_attention_heads=heads,
        attention_head_dim=64,
        joint_attention_dim=4096,
        caption_projection_dim=64 * heads,
        pooled_projection_dim=2048,
        pos_embed_max_size=8,  # a small table: positions cost nothing
        qk_norm="rms_norm",
        dual_attention_layers=tuple(dual),
    )


def transformer(config):
    return Transformer(
        source="",
        parameters=1,
        layers=config.num_layers,
        heads=config.num_attention_heads,
        head_size=64,
        image_slots=config.num_layers + len(config.dual_attention_layers),
        text_slots=config.num_layers,
        given=modulation_chunks(config) * config.width,
        positions=POSITIONS,
        text="text",
        operations=transformer_operations(config),
    )


def pair(large, small):
    """Facts as far as arithmetic reads them."""
    return Facts(
        family="sd3",
        large=MODELS[large],
        small=MODELS[small],
        latent=Latent(channels=16, patch_size=2, vae_scale=8),
        sizes=Sizes(default=(1024, 1024), minimum=(1024, 1024), maximum=(1024, 1024), max_batch=1),
        sigmas=Sigmas(rule="flow-match-euler", levels=1000, shift=3.0),
        text={"text": TextSide(join="join_text", tokens=TEXT, encoders=[])},
        defaults=Defaults(schedule="large", steps=28, guidance_scale=3.5),
    )


POSITIONS = Positions(origin="centre", table_size=8, rows=8, columns=8)
CONFIGS = {
    "SD3.5-Large": config(38, 38),
    "SD3.5-Medium": config(24, 24, range(13)),
    "SD3-Medium": config(24, 24),
}
MODELS = {name: transformer(found) for name, found in CONFIGS.items()}


def tera(model, active=TOKENS):
    """TFLOP of a step with guidance: two rows."""
    return 2 * step_flops(MODELS[model], active, TOKENS, TEXT) / 1e12


def test_steps_cost_what_the_method_says():
    # The published numbers have one digit behind the point.
    assert tera("SD3.5-Large") == pytest.approx(62.2, abs=0.05)
    assert tera("SD3.5-Large", round(0.3 * TOKENS)) == pytest.approx(21.9, abs=0.05)
    assert tera("SD3.5-Medium") == pytest.approx(22.5, abs=0.05)
    assert tera("SD3-Medium") == pytest.approx(17.8, abs=0.05)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("active", [TOKENS, 1216])
def test_steps_cost_what_torch_counts(model, active):
    arch = MODELS[model]
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        module = meta_transformer(CONFIGS[model])
        slot = torch.empty(1, TOKENS - active, arch.heads, arch.head_size)
        positions, step = torch.empty(1, active, dtype=torch.int32), torch.empty(1, dtype=torch.int32)
        given = [
            torch.empty(tensor)
            for tensor in ((1, 1, 1, modulation_chunks(CONFIGS[model]) * arch.width), (1, TEXT, arch.width))
        ]
        past = [slot] * (2 * arch.image_slots) + [slot[:, :0]] * (2 * arch.text_slots)
        module(torch.empty(1, active, 64), positions, step, *given, *past)
    # The formula leaves out what is not in a layer: a token's way in and out.
    assert step_flops(arch, active, TOKENS, TEXT) == pytest.approx(counter.get_total_flops(), rel=0.005)


def meta_transformer(config):
    """A transformer without memory behind its weights."""
    return TokenTransformer(transformer_like(config).to("meta"), POSITIONS, takes_cache=True).to("meta")


@pytest.mark.parametrize(
    ("schedule", "small", "speedup"),
    [
        ("large:10,hybrid:15,small:25", "SD3.5-Medium", 1.68),
        ("large:10,hybrid:15,small:25", "SD3-Medium", 1.87),
        ("large:10,hybrid:10,small:30", "SD3.5-Medium", 1.79),
        ("large:10,hybrid:10,small:30", "SD3-Medium", 2.00),
        ("small:50", "SD3.5-Medium", 2.77),
        ("small:50", "SD3-Medium", 3.50),
        ("large:50", "SD3-Medium", 1.00),
    ],
)
def test_speedups_are_those_the_method_lists(schedule, small, speedup):
    found = schedule_from_text(f"{schedule};signal=change")
    # Two digits are published, and M is rounded from 1229 to 1216 tokens.
    assert predicted_speedup(found, pair("SD3.5-Large", small)) == pytest.approx(speedup, abs=0.01)


def test_gap_costs_one_step_of_small_for_each_choice_of_a_region():
    facts = pair("SD3.5-Large", "SD3-Medium")

    def cost(text):
        return schedule_flops(schedule_from_text(text), facts, TOKENS)

    once = 2 * step_flops(facts.small, TOKENS, TOKENS, TEXT)
    schedule = "large:2,hybrid:7,small:1"
    assert cost(f"{schedule};signal=gap") - cost(f"{schedule};signal=change") == once
    assert cost(f"{schedule};signal=gap,refresh=2") - cost(f"{schedule};signal=center,refresh=2") == 3 * once


def test_steps_of_the_prompts_rows_alone_cost_half():
    facts = pair("SD3.5-Large", "SD3-Medium")

    def cost(text, **options):
        return schedule_flops(schedule_from_text(text), facts, TOKENS, **options)

    assert cost("large:2,large+held:2") == 1.5 * cost("large:2")
    assert cost("large:2,large+held:2", guided=False) == 2 * cost("large:2", guided=False)


def test_cached_text_makes_a_region_step_as_cheap_as_the_method_says():
    large = MODELS["SD3.5-Large"]
    whole = step_flops(large, TOKENS, TOKENS, TEXT)
    live = step_flops(large, 1229, TOKENS, TEXT) / whole
    cached = step_flops(large, 1229, TOKENS, TEXT, text_cached=True) / whole
    assert (live, cached) == pytest.approx((0.352, 0.278), abs=0.001)


def test_refreshes_cost_large_steps():
    facts = pair("SD3.5-Large", "SD3-Medium")
    refreshed = schedule_flops(schedule_from_text("large:2,hybrid:3;signal=center,refresh=1"), facts, TOKENS)
    written = schedule_from_text("large:2,hybrid:1,large:1,hybrid:1;signal=center")
    assert refreshed == schedule_flops(written, facts, TOKENS)
