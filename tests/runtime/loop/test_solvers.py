"""Solvers and noise levels on a flow that is known exactly: a mixture of two narrow Gaussians on a line."""

from itertools import pairwise

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from hsruntime import Session
from hsruntime.facts import Sigmas
from hsruntime.loop.flow import GRIDS, noise_levels
from hsruntime.loop.solvers import extrapolation, first_order, solver_coefficients
from hsruntime.schedule.presets import schedule_from_text

PAIR = Sigmas(rule="flow-match-euler", levels=1000, shift=3.0)
CENTRES, WIDTH = np.array([-1.0, 1.5]), 0.3
NOISE = np.random.default_rng(0).standard_normal(64)


def velocity(x, sigma):
    """(x - E[x0 | x]) / sigma, of x = (1 - sigma) x0 + sigma noise."""
    spread = ((1 - sigma) * WIDTH) ** 2 + sigma**2
    off = x[:, None] - (1 - sigma) * CENTRES
    weights = np.exp(-(off**2 - (off**2).min(axis=1, keepdims=True)) / (2 * spread))
    weights /= weights.sum(axis=1, keepdims=True)
    clean = CENTRES + (1 - sigma) * WIDTH**2 / spread * off
    return (x - (weights * clean).sum(axis=1)) / sigma


def solved(sigmas, solver):
    x, before, clean = NOISE, np.zeros_like(NOISE), np.zeros_like(NOISE)
    for sigma, row in zip(sigmas[:-1], solver_coefficients(sigmas, solver).astype(np.float64), strict=True):
        v = velocity(x, float(sigma))
        x, before, clean = row[0] * x + row[1] * v + row[2] * before + row[3] * clean, v, x - row[4] * v
    return x


CONVERGED = solved(np.append(np.linspace(1, 1 / 4000, 4000), 0), "euler")


def error(sigmas, solver):
    return float(np.sqrt(np.mean((solved(sigmas, solver) - CONVERGED) ** 2)))


def levels(text):
    return noise_levels(PAIR, schedule_from_text(text), tokens=64)


@pytest.mark.parametrize("solver", ["ab2", "dpmpp_2m"])
def test_second_order_converges_faster(solver):
    """Half the step is a quarter of the error or nearly, and Euler's is half."""
    few, many = (levels(f"large:{steps};grid=trailing,shift=1") for steps in (32, 64))
    assert error(few, "euler") / error(many, "euler") == pytest.approx(2, abs=0.3)
    assert error(few, solver) / error(many, solver) > 2.8
    assert error(many, solver) < 0.2 * error(many, "euler")


def test_dpmpp_is_what_its_authors_write():
    """In the clean picture and the logarithm of alpha over sigma, step by step."""
    sigmas = levels("large:8;grid=trailing").astype(np.float64)
    x, old, half = NOISE, None, lambda s: np.log((1 - s) / s)
    for i, (now, following) in enumerate(pairwise(sigmas)):
        clean = x - now * velocity(x, now)
        if following == 0:
            x = clean
            continue
        h = np.inf if now == 1 else half(following) - half(now)
        guess = clean
        if i > 1:
            r = max(1, (half(now) - half(sigmas[i - 1])) / h)  # ours: no farther than over as long a step
            guess = (1 + 1 / (2 * r)) * clean - 1 / (2 * r) * old
        x, old = following / now * x - (1 - following) * np.expm1(-h) * guess, clean
    np.testing.assert_allclose(solved(levels("large:8;grid=trailing"), "dpmpp_2m"), x, atol=1e-5)


@st.composite
def any_levels(draw):
    """2 to 50 of any spacing, steps of very different length among them."""
    count = draw(st.integers(2, 50))
    gaps = np.array(draw(st.lists(st.floats(1e-3, 1), min_size=count, max_size=count)))
    return np.append(1 - np.append(0, np.cumsum(gaps))[:-1] / gaps.sum(), 0).astype(np.float32)


@settings(max_examples=300, deadline=None)
@given(any_levels(), st.sampled_from(["ab2", "dpmpp_2m"]))
def test_no_grid_makes_a_solver_diverge(sigmas, solver):
    """Never much farther from the converged answer than Euler's."""
    assert error(sigmas, solver) < 1.5 * error(sigmas, "euler") + 0.05


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("solver", ["euler", "ab2", "dpmpp_2m"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 28])
def test_every_grid_falls_to_nothing_with_every_solver(grid, solver, steps):
    sigmas = levels(f"large:{steps};grid={grid},shift=2.5")
    assert len(sigmas) == steps + 1 and sigmas[0] == pytest.approx(1) and sigmas[-1] == 0
    assert (np.diff(sigmas) < 0).all()
    table = solver_coefficients(sigmas, solver)
    assert table.shape == (steps, 5) and np.isfinite(table).all()
    assert np.abs(table[:, :4]).max() <= 2.5


@pytest.mark.parametrize("grid", ["karras", "exponential", "beta"])
@pytest.mark.parametrize("steps", [1, 2, 5, 28])
def test_spacings_are_those_of_diffusers(grid, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, **{f"use_{grid}_sigmas": True})
    scheduler.set_timesteps(steps)
    np.testing.assert_allclose(levels(f"large:{steps};grid={grid}"), scheduler.sigmas.numpy(), atol=2e-5)


def test_stated_levels_are_taken():
    np.testing.assert_array_equal(levels("large:2,small:1;sigmas=1/0.5/0.25"), np.float32([1, 0.5, 0.25, 0]))


@pytest.mark.parametrize(
    ("schedule", "restarted"),
    [
        ("large:3,small:3", [3]),
        ("large:3,region:3", []),
        ("small:2,large:2,hybrid:2", [2, 4]),
        ("large:2,large+off:4", []),
    ],
)
def test_a_change_of_the_model_restarts_the_solver(tiny_bundle, schedule, restarted):
    """A slope between two models' velocities is none; a region goes on with large's."""
    with Session.open(tiny_bundle) as session:
        result = session.generate("red", schedule=f"{schedule};solver=ab2,grid=trailing,signal=std")
        sigmas = noise_levels(session.manifest.facts.sigmas, result.schedule, tokens=16)
        (executor,) = session._executors._kept.values()
        rows = executor.loop._coefficients
        assert [step for step in range(1, 5) if np.allclose(rows[step], first_order(sigmas, step))] == restarted


@pytest.mark.parametrize("order", [0, 1, 2])
def test_skipped_steps_follow_a_polynomial_of_their_order_exactly(order):
    known, at = [0.5, 0.6, 0.75], 0.45
    for power in range(order + 1):
        expected = at**power
        assert np.dot(extrapolation(known, at, order), np.power(known, power)) == pytest.approx(expected, rel=1e-5)


def test_skipped_steps_use_what_is_there_and_go_no_farther_than_that_reaches_back():
    assert extrapolation([0.5], 0.1, 2).tolist() == [1, 0, 0]
    assert extrapolation([0.5, 0.6], 0.4, 2).tolist() == pytest.approx([2, -1, 0])
    for sigma in (0.39, 0.2, 0.0):
        assert extrapolation([0.5, 0.6], sigma, 1).tolist() == extrapolation([0.5, 0.6], 0.4, 1).tolist()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(0.001, 1), min_size=1, max_size=3, unique=True).map(sorted),
    st.floats(0, 1),
    st.sampled_from([0, 1]),
)
def test_a_skipped_velocity_is_no_more_than_three_times_the_known_ones(known, share, order):
    """Order 1: at most once the slope between the last two is added."""
    weights = extrapolation(known, known[0] * share, order)
    assert weights.sum() == pytest.approx(1, abs=1e-4)
    assert np.abs(weights).sum() <= 3.001
