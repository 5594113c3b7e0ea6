"""ST-LPIPS by the graph that ships: the authors' own numbers, and what it is there for."""

import numpy as np
import pytest

from hsengines.errors import EngineLoadError
from hsexport.measure.perceptual.network import STLPIPS, Perceptual
from hsexport.measure.pictures import psnr, stlpips
from perceptual_export.pictures import moved, noisy, pairs, scene

PACKAGE = {
    "noise of 4, 128x128": 0.005387,
    "noise of 32, 128x128": 0.346859,
    "moved by 1, 128x128": 0.006713,
    "moved by 8, 128x128": 0.068711,
    "blurred, 161x96": 0.035610,
    "turned over, 161x96": 0.403907,
    "in other colours, 512x512": 0.398686,
    "least size": 0.041783,
}
"""stlpips_pytorch 0.0.2 itself on AlexNet, as `scripts/export_perceptual stlpips WHEEL` prints it."""


@pytest.mark.parametrize("name", PACKAGE)
def test_distance_is_the_authors_packages(name):
    picture, reference = pairs(STLPIPS.least_side)[name]
    # Weights in fp16 where the package's are fp32.
    assert stlpips(picture[None], reference[None]) == pytest.approx(PACKAGE[name], rel=1e-3, abs=2e-5)


@pytest.mark.parametrize("size", [(128, 128), (64, 96), (16, 16)])
def test_equal_pictures_lie_nowhere_apart(size):
    assert stlpips(scene(*size)[None], scene(*size)[None]).tolist() == [0]


def test_distance_grows_with_noise():
    picture = scene(128, 128)
    found = [float(stlpips(noisy(picture, amount)[None], picture[None])[0]) for amount in (0, 4, 8, 16, 32, 64)]
    assert found == sorted(set(found))


@pytest.mark.parametrize("side", [128, 256])
def test_a_shift_by_one_pixel_hardly_counts(side):
    """By PSNR it is worse than noise of 8 grey levels, by ST-LPIPS not a quarter as bad."""
    picture = scene(side, side)
    pictures, references = np.stack([moved(picture, 1), noisy(picture, 8)]), np.stack([picture] * 2)
    shift, noise = stlpips(pictures, references)
    assert shift < noise / 4
    assert np.diff(psnr(pictures, references)) > 5


def test_distance_is_the_same_both_ways():
    first, second = pairs(STLPIPS.least_side)["turned over, 161x96"]
    assert stlpips(first[None], second[None]) == pytest.approx(stlpips(second[None], first[None]))


def test_pictures_smaller_than_the_network_reads_are_enlarged():
    small, distances = scene(STLPIPS.least_side - 1, 32), STLPIPS.distances
    large = small.repeat(2, 0).repeat(2, 1)
    assert distances(noisy(small, 8)[None], small[None]) > 0
    assert distances(large[None], small.repeat(2, 0).repeat(2, 1)[None]).tolist() == [0]
    assert distances(small[:, ::-1][None], small[None]) == distances(large[:, ::-1][None], large[None])


def test_a_graph_that_is_another_is_refused(tmp_path):
    (tmp_path / "other.onnx").write_bytes(STLPIPS.file.read_bytes().replace(b"distances", b"distancez"))
    picture = scene(32, 32)[None]
    with pytest.raises(EngineLoadError, match="distances"):
        Perceptual(tmp_path / "other.onnx", 21).distances(picture, picture)


def test_the_authors_licence_lies_beside_the_graph():
    text = STLPIPS.file.with_name("LICENSE").read_text(encoding="utf-8")
    assert text.startswith("BSD 2-Clause License") and "Abhijay Ghildyal, Feng Liu" in text
