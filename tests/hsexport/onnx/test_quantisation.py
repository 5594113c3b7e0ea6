"""Matrices in few bits: how near the numbers lie, and that scales fit the type they will have."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsengines.weights import block_of
from hsexport.onnx.quantisation import Form, quantised

BF16 = np.dtype(ml_dtypes.bfloat16)


def matrix(seed=0, rows=96, columns=192, tails=0.0):
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((rows, columns)) / 20
    return (found + tails * rng.standard_t(2, (rows, columns))).astype(np.float32)


def form(format, columns=192, **more):
    return Form(format, block_of(format, columns) or 0, **more)


def error(found, exact, weight=1.0):
    return float(np.sqrt((weight * (found.numbers() - exact) ** 2).mean() / (weight * exact**2).mean()))


@pytest.mark.parametrize(
    ("format", "worst"), [("int8", 0.009), ("fp8", 0.03), ("int4", 0.105), ("nvfp4", 0.1), ("int8-full", 0.009)]
)
def test_numbers_lie_as_near_as_the_format_allows(format, worst):
    exact = matrix()
    assert 0 < error(quantised(exact, form(format)), exact) < worst


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.002, 0.02]))
def test_found_scales_are_never_worse_than_those_that_cut_nothing_off(seed, tails):
    exact = matrix(seed, 16, 64, tails)
    widest = np.abs(exact).max(1, keepdims=True) / 7
    plain = np.clip(np.rint(exact / widest), -8, 7) * widest
    assert error(quantised(exact, form("int4", 64)), exact) <= np.sqrt(
        ((plain - exact) ** 2).mean() / (exact**2).mean()
    )


def test_columns_that_matter_more_err_less():
    exact, weight = matrix(), np.random.default_rng(1).chisquare(1, 192).astype(np.float32)
    plain, led = (quantised(exact, form("int4", importance=each)) for each in (None, weight))
    assert error(led, exact, weight) < 0.96 * error(plain, exact, weight)


@pytest.mark.parametrize("format", ["int8", "int4", "fp8", "nvfp4"])
def test_scales_are_in_the_type_that_the_graph_computes_in(format):
    found = quantised(matrix(), form(format, scale_type=BF16))
    scales = found.scale_of_scales if format == "nvfp4" else found.scales
    assert (scales.astype(BF16).astype(np.float32) == scales).all()


def test_seven_bits_leave_one_for_sums():
    assert np.abs(quantised(matrix(), form("int8-full", bits=7)).values.astype(int)).max() == 63


@pytest.mark.parametrize("format", ["int8", "int4", "fp8", "nvfp4"])
def test_zeros_and_single_spikes_stay_what_they_are(format):
    exact = np.zeros((33, 64), np.float32)
    exact[3, 5] = 2.5
    found = quantised(exact, form(format, 64)).numbers()
    assert np.isfinite(found).all()
    assert abs(found[3, 5] - 2.5) < 0.01
    assert np.abs(np.delete(found.ravel(), 3 * 64 + 5)).max() == 0


def test_rows_that_no_block_divides_have_none():
    assert [block_of("int4", columns) for columns in (128, 96, 80)] == [64, 32, None]
    assert block_of("nvfp4", 40) is None
    assert block_of("int8", 41) == 0
