"""A region with its cache taken at the same state is exactly the full pass, whatever the architecture."""

import pytest
import torch
from diffusers import SD3Transformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from live_transformer import live_transformer
from tiny_pair import randomise

from hsexport.families.shared.blocks import Cache, KeyValue
from hsruntime.facts import Positions
from hsruntime.loop.flow import grid_positions, latents_from_tokens, tokens_from_latents

TABLE = 14
RELATIVE_ERROR = 1e-4  # the bound; fp32 sums in another order stay near 1e-6


@st.composite
def architectures(draw):
    layers = draw(st.integers(1, 4))
    return {
        "num_layers": layers,
        "num_attention_heads": draw(st.integers(1, 3)),
        "attention_head_dim": draw(st.sampled_from([4, 8, 16])),
        "qk_norm": draw(st.sampled_from([None, "rms_norm"])),
        "dual_attention_layers": tuple(sorted(draw(st.sets(st.integers(0, layers - 1))))),
        "patch_size": draw(st.sampled_from([1, 2])),
    }


@st.composite
def cases(draw):
    grid = (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    pictures, guided = draw(st.sampled_from([1, 3])), draw(st.booleans())
    tokens = grid[0] * grid[1]
    return {
        "architecture": draw(architectures()),
        "grid": grid,
        "rows": pictures * (2 if guided else 1),
        "active": draw(st.integers(1, tokens)),
        "text": draw(st.integers(1, 7)),
        "seed": draw(st.integers(0, 2**16)),
    }


def make_model(architecture, seed):
    torch.manual_seed(seed)
    width = architecture["num_attention_heads"] * architecture["attention_head_dim"]
    model = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        joint_attention_dim=12,
        caption_projection_dim=width,
        pooled_projection_dim=10,
        pos_embed_max_size=TABLE,
        **architecture,
    )
    return randomise(model, seed)


def relative_error(found, expected):
    return (found - expected).abs().max().item() / max(1e-6, expected.abs().max().item())


def rows_of(tensor, index):
    """Tensor (G, N, ...) at index (G, M)."""
    return torch.stack([row[places] for row, places in zip(tensor, index, strict=True)])


@torch.inference_mode()
@settings(max_examples=40, deadline=None)
@given(cases())
def test_region_velocity_and_text_equal_the_full_pass(case):
    model = make_model(case["architecture"], case["seed"])
    (h, w), rows = case["grid"], case["rows"]
    table = Positions(origin="centre", table_size=TABLE, rows=9, columns=9)
    tokens_module = live_transformer(model, table, takes_cache=True)
    patch = case["architecture"]["patch_size"]
    tokens = torch.randn(rows, h * w, patch * patch * 4)
    positions = torch.from_numpy(grid_positions(table, case["grid"])).expand(rows, -1)
    timestep, text, pooled = torch.tensor([431.0]), torch.randn(rows, case["text"], 12), torch.randn(rows, 10)

    full = Cache([], [])
    full_x, full_text = tokens_module.streams(tokens, positions, timestep, text, pooled, full)
    full_velocity = tokens_module(tokens, positions, timestep, text, pooled)[0]

    order = torch.stack([torch.randperm(h * w) for _ in range(rows)])
    active, cached = order[:, : case["active"]], order[:, case["active"] :]

    past = [KeyValue(rows_of(kv.key, cached), rows_of(kv.value, cached)) for kv in full.presents]
    no_text = [KeyValue(kv.key[:, :0], kv.value[:, :0]) for kv in full.presents_text]
    part = (rows_of(tokens, active), rows_of(positions, active), timestep, text, pooled)
    region_x, region_text = tokens_module.streams(*part, Cache(past, no_text))
    region_velocity = tokens_module(*part, *(t for kv in [*past, *no_text] for t in kv))[0]
    without = (*part[:3], text[:, :0], pooled)
    text_cached_velocity = tokens_module(*without, *(t for kv in [*past, *full.presents_text] for t in kv))[0]

    assert relative_error(region_velocity, rows_of(full_velocity, active)) < RELATIVE_ERROR
    assert relative_error(text_cached_velocity, rows_of(full_velocity, active)) < RELATIVE_ERROR
    assert relative_error(region_x, rows_of(full_x, active)) < RELATIVE_ERROR
    assert relative_error(region_text, full_text) < RELATIVE_ERROR


@pytest.mark.slow
@torch.inference_mode()
@settings(max_examples=25, deadline=None)
@given(architectures(), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(0, 2**16))
def test_full_velocity_equals_diffusers(architecture, grid, seed):
    model = make_model(architecture, seed)
    table, patch = Positions(origin="centre", table_size=TABLE, rows=9, columns=9), architecture["patch_size"]
    latents = torch.randn(2, 4, grid[0] * patch, grid[1] * patch)
    text, pooled, timestep = torch.randn(2, 5, 12), torch.randn(2, 10), torch.tensor([77.0])
    expected = model(latents, text, pooled, timestep.expand(2), return_dict=False)[0]

    tokens = torch.from_numpy(tokens_from_latents(latents.numpy(), patch))
    positions = torch.from_numpy(grid_positions(table, grid)).expand(2, -1)
    for takes_cache in (True, False):
        module = live_transformer(model, table, takes_cache=takes_cache)
        velocity = module(tokens, positions, timestep, text, pooled)[0]
        found = torch.from_numpy(latents_from_tokens(velocity.numpy(), patch, grid))
        assert relative_error(found, expected) < 1e-5  # the same products, summed in another order


@st.composite
def light_cases(draw):
    """An architecture of three blocks or more, and how many of the outer ones a light form keeps."""
    layers = draw(st.integers(3, 6))
    first = draw(st.integers(1, layers - 2))
    dual = tuple(sorted(draw(st.sets(st.integers(0, layers - 1)))))
    return {
        "architecture": draw(architectures()) | {"num_layers": layers, "dual_attention_layers": dual},
        "outer": (first, draw(st.integers(1, layers - 1 - first))),
        "grid": (draw(st.integers(1, 9)), draw(st.integers(1, 9))),
        "rows": draw(st.sampled_from([1, 2, 4])),
        "text": draw(st.integers(1, 7)),
        "seed": draw(st.integers(0, 2**16)),
    }


@torch.inference_mode()
@settings(max_examples=15, deadline=None)
@given(light_cases())
def test_light_with_what_the_middle_blocks_just_added_is_the_full_pass(case):
    model, outer, rows = make_model(case["architecture"], case["seed"]), case["outer"], case["rows"]
    table = Positions(origin="centre", table_size=TABLE, rows=9, columns=9)
    whole = live_transformer(model, table, takes_cache=True, outer=outer)
    light = live_transformer(model, table, outer=outer, light=True)
    (h, w), patch = case["grid"], case["architecture"]["patch_size"]
    tokens, text, pooled = (
        torch.randn(rows, h * w, patch * patch * 4),
        torch.randn(rows, case["text"], 12),
        torch.randn(rows, 10),
    )
    positions = torch.from_numpy(grid_positions(table, case["grid"])).expand(rows, -1)
    given = (tokens, positions, torch.tensor([431.0]), text, pooled)
    velocity, *kept, of_image, of_text = whole(*given)

    plain = live_transformer(model, table, takes_cache=True)(*given)
    assert relative_error(velocity, plain[0]) == 0
    assert len(kept) == len(plain) - 1
    assert of_image.shape[:2] == tokens.shape[:2] and of_text.shape[:2] == text.shape[:2]
    assert relative_error(light(*given, of_image, of_text)[0], velocity) < RELATIVE_ERROR
    wrong = of_image + torch.randn_like(of_image)
    assert relative_error(light(*given, wrong, of_text)[0], velocity) > 10 * RELATIVE_ERROR
    assert sum(p.numel() for p in light.denoiser.parameters()) < sum(p.numel() for p in whole.denoiser.parameters())


@torch.inference_mode()
def test_a_wrong_cache_is_noticed():
    """The oracle can fail: keys of other tokens give another velocity."""
    model = make_model({"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "patch_size": 1}, 0)
    module = live_transformer(model, Positions(origin="centre", table_size=TABLE, rows=9, columns=9), takes_cache=True)
    tokens, text, pooled = torch.randn(1, 16, 4), torch.randn(1, 3, 12), torch.randn(1, 10)
    positions = torch.arange(16, dtype=torch.int32)[None]
    whole = module(tokens, positions, torch.tensor([500.0]), text, pooled)
    shuffled = [torch.roll(t[:, 4:], 1, dims=-1) for t in whole[1:]]
    region = module(tokens[:, :4], positions[:, :4], torch.tensor([500.0]), text, pooled, *shuffled)[0]
    assert relative_error(region, whole[0][:, :4]) > 10 * RELATIVE_ERROR


def test_patch_two_exports_the_same_layout_as_patch_one():
    """A token is (p, q, C) on its way in and out; diffusers reads (C, p, q), hence the permuted embedding."""
    latents = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).reshape(2, 3, 4, 4).numpy()
    tokens = tokens_from_latents(latents, 2)
    assert tokens[0, 1].tolist() == [latents[0, c, p, 2 + q] for p in range(2) for q in range(2) for c in range(3)]
    assert latents_from_tokens(tokens, 2, (2, 2)) == pytest.approx(latents)
