import numpy as np
import pytest

from hsengines.errors import ShapeError
from hsexport.measure.pictures import METRICS, flip, psnr, ssim


@pytest.fixture
def pictures():
    """Smooth pictures, as decoders make them: noise would be as far from itself shifted as from anything."""
    y, x = np.mgrid[0:32, 0:32] / 31
    return np.stack([np.stack([255 * x, 255 * y, 255 * (x * y) ** p], axis=2) for p in (0.5, 1, 2)]).astype(np.uint8)


def noisy(pictures, amount):
    noise = np.random.default_rng(0).normal(0, amount, pictures.shape)
    return np.clip(pictures + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_more_noise_lies_further_from_the_picture(metric, pictures):
    rows = [metric.measure(noisy(pictures, amount), pictures) for amount in (0, 4, 16, 64)]
    assert all(row.shape == (3,) and row.dtype == np.float64 for row in rows)
    steps = np.diff(np.stack(rows), axis=0)
    assert (steps < 0).all() if metric.higher_is_closer else (steps > 0).all()


def test_equal_pictures_are_at_the_end_of_each_scale(pictures):
    assert psnr(pictures, pictures) == pytest.approx(58.92, abs=0.01)
    assert ssim(pictures, pictures) == pytest.approx(1)
    assert flip(pictures, pictures) == pytest.approx(0)


def test_psnr_of_one_grey_level_is_20_log_255(pictures):
    below = np.minimum(pictures, 254)
    assert psnr(below + np.uint8(1), below) == pytest.approx(20 * np.log10(255))


def test_each_picture_is_measured_against_its_own_reference(pictures):
    mixed = pictures[[0, 2, 1]]
    for metric in METRICS:
        alone = [metric.measure(mixed[i : i + 1], pictures[i : i + 1])[0] for i in range(3)]
        assert metric.measure(mixed, pictures) == pytest.approx(alone)


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_floats_and_other_sizes_are_refused(metric, pictures):
    with pytest.raises(ShapeError, match="uint8"):
        metric.measure(pictures / 255, pictures)
    with pytest.raises(ShapeError, match="same shape"):
        metric.measure(pictures[:, :16], pictures)
