import numpy as np
import pytest

from hsexport.measure.turns import mean_of, median_of, standard_error_interval


def test_interval_of_a_mean_is_near_the_textbook_one():
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = mean_of(values)
    reach = 1.96 * values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    # A 2.5th percentile of 2000 resamples wavers by a few per cent of the standard error.
    assert found.low == pytest.approx(values.mean() - reach, abs=0.15 * reach)
    assert found.high == pytest.approx(values.mean() + reach, abs=0.15 * reach)


def test_95_of_100_intervals_hold_the_truth():
    rng = np.random.default_rng(2)
    intervals = [median_of(rng.normal(0, 1, 60)) for _ in range(200)]
    assert 0.90 <= np.mean([e.low <= 0 <= e.high for e in intervals]) <= 0.99


def test_standard_error_interval_surrounds_its_value():
    values = np.random.default_rng(0).normal(10, 1, 100)
    found = standard_error_interval(lambda rows: float(values[rows].mean()), 100)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.value == pytest.approx(1.96 * 0.1, rel=0.25)  # 200 resamples waver by 5 %


def test_one_prompt_has_an_interval_of_no_width():
    assert median_of(np.array([1.5])).low == median_of(np.array([1.5])).high == 1.5
