"""Every preset that carries a published method's name follows that method's rule, written out beside it."""

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel
from published_rules import (
    adams_bashforth,
    dbcache,
    hybridstitch,
    in_turns,
    lightstitch,
    ras,
    srdiffusion,
    taylorseer,
)
from token_transformer import picture_from

STEPS = 28
# float32 sums in another order, 28 steps long, then a rounding to bytes.
TOLERANCE = 1
# Nearer than this, rounding alone would decide which token is taken, and agreement would be luck.
LEAST_MARGIN = 1e-5


def difference(result, expected):
    """The largest one, in grey levels."""
    assert expected.std() > 5, "a flat picture would agree with anything"
    return np.abs(result.images.astype(int) - expected.astype(int)).max()


def same_regions(found, expected):
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


@pytest.mark.parametrize("name", ["large", "small"])
def test_the_reference_with_all_tokens_is_diffusers_own_forward(rival, tiny_pair_dirs, name):
    ours, folder = rival(STEPS, seed=0), tiny_pair_dirs[name == "small"]
    model = SD3Transformer2DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
    rows, timestep = torch.cat([ours.latents, ours.latents]), ours.timesteps[3]
    expected = model(rows, ours.text, ours.pooled, timestep.expand(len(rows)), return_dict=False)[0]
    found = getattr(ours, name)(rows, timestep, ours.text, ours.pooled)
    torch.testing.assert_close(picture_from(found, rows), expected)


@pytest.mark.parametrize("steps", [28, 20])
@pytest.mark.parametrize("name", ["large", "small"])
def test_one_model_alone_takes_eulers_steps(rival, ours, pictures, name, steps):
    expected = rival(steps, seed=0)
    in_turns(expected, [(getattr(expected, name), steps)])
    assert difference(ours(name, steps, seed=0)[0], pictures(expected)) <= TOLERANCE


@pytest.mark.parametrize("steps", [28, 10])
def test_second_order_steps_are_adams_bashforths(rival, ours, pictures, steps):
    expected = rival(steps, seed=0)
    adams_bashforth(expected, expected.large)
    assert difference(ours(f"large:{steps};solver=ab2", steps, seed=0)[0], pictures(expected)) <= TOLERANCE


@pytest.mark.parametrize(
    ("preset", "turns"),
    [
        ("tstitch", [("small", 12), ("large", 16)]),
        ("srdiffusion", [("large", 14), ("small", 14)]),
        ("flowblending", [("large", 7), ("small", 15), ("large", 6)]),
    ],
)
def test_models_take_turns_at_fixed_steps(rival, ours, pictures, preset, turns):
    expected = rival(STEPS, seed=0)
    in_turns(expected, [(getattr(expected, name), steps) for name, steps in turns])
    result, _ = ours(preset, STEPS, seed=0)
    assert [(segment.mode, segment.steps) for segment in result.schedule.segments] == turns
    assert difference(result, pictures(expected)) <= TOLERANCE


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_srdiffusion_switches_at_its_own_step(rival, ours, pictures, seed):
    expected = rival(STEPS, seed)
    switch = srdiffusion(expected)
    result, _ = ours("srdiffusion_adaptive", STEPS, seed)
    ran = [(segment.mode, segment.steps) for segment in result.schedule.segments]
    assert ran == [("large", switch), ("small", STEPS - switch)]
    assert difference(result, pictures(expected)) <= TOLERANCE


def test_ras_computes_the_same_tokens_at_every_step(rival, ours, pictures):
    expected = rival(STEPS, seed=0)
    ras(expected)
    result, regions = ours("ras", STEPS, seed=0)
    assert expected.margin > LEAST_MARGIN
    assert same_regions(regions, expected.regions)
    assert np.array_equal(result.region, expected.regions[-1])
    assert difference(result, pictures(expected)) <= TOLERANCE


@pytest.mark.parametrize(("large", "hybrid"), [(8, 7), (3, 20)])
def test_hybridstitch_refines_the_same_region(rival, ours, pictures, large, hybrid):
    expected = rival(STEPS, seed=0)
    hybridstitch(expected, large, hybrid)
    schedule = f"large:{large},hybrid:{hybrid},small:{STEPS - large - hybrid};signal=gap,ratio=0.3"
    result, regions = ours(schedule, STEPS, seed=0)
    assert expected.margin > LEAST_MARGIN
    assert same_regions(regions, expected.regions)
    assert np.array_equal(result.region, expected.regions[-1])
    assert difference(result, pictures(expected)) <= TOLERANCE


@pytest.mark.parametrize("steps", [28, 11])
@pytest.mark.parametrize("rule", [taylorseer, dbcache])
def test_what_is_cached_is_used_at_the_same_steps(rival, ours, pictures, rule, steps):
    expected = rival(steps, seed=0)
    rule(expected)
    assert difference(ours(rule.__name__, steps, seed=0)[0], pictures(expected)) <= TOLERANCE


def test_lightstitch_refines_the_same_regions(rival, ours, pictures):
    expected = rival(STEPS, seed=0)
    lightstitch(expected)
    result, regions = ours("lightstitch", STEPS, seed=0)
    assert expected.margin > LEAST_MARGIN
    assert same_regions(regions, expected.regions)
    assert difference(result, pictures(expected)) <= TOLERANCE


WRONG = {
    "no starvation": {"starvation": 0},
    "starvation the other way": {"starvation": -0.1},
    "no resets": {"full_steps": (1, 2, 3, 4)},
    "resets one step early": {"full_steps": (1, 2, 3, 4, 12, 22)},
    "fewer tokens": {"ratio": 0.4},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_another_rule_than_rass_would_be_noticed(rival, ours, pictures, change):
    other = rival(STEPS, seed=0)
    ras(other, **change)
    result, regions = ours("ras", STEPS, seed=0)
    assert not same_regions(regions, other.regions)
    assert difference(result, pictures(other)) > TOLERANCE


def test_another_order_than_the_methods_own_would_be_noticed(rival, ours, pictures):
    def expected(rule):
        other = rival(STEPS, seed=0)
        rule(other)
        return pictures(other)

    for preset, rule in {
        "tstitch": lambda r: in_turns(r, [(r.small, 11), (r.large, 17)]),
        "srdiffusion": lambda r: in_turns(r, [(r.large, 15), (r.small, 13)]),
        "flowblending": lambda r: in_turns(r, [(r.large, 7), (r.small, 16), (r.large, 5)]),
        "large:28;solver=ab2": lambda r: in_turns(r, [(r.large, STEPS)]),
        "large:8,hybrid:7,small:13": lambda r: hybridstitch(r, 8, 6),
        "taylorseer": lambda r: taylorseer(r, every=4),
        "dbcache": lambda r: dbcache(r, first=3),
        "lightstitch": lambda r: lightstitch(r, refresh=3),
    }.items():
        assert difference(ours(preset, STEPS, seed=0)[0], expected(rule)) > TOLERANCE, preset
