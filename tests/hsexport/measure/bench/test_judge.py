import shutil

import numpy as np
import pytest

from hsexport.measure.bench.judge import Judge, Judged, JudgeError, Reference, feature_distances, frechet


@pytest.fixture(scope="module")
def judge(judge_folder):
    return Judge.open(judge_folder)


def test_batches_change_nothing(judge):
    pictures = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3), dtype=np.uint8)
    judged = judge.judge(pictures)
    assert judged.features.shape == (70, 5) and judged.logits.shape == (70, 6)
    assert judged.features[69] == pytest.approx(judge.judge(pictures[69:]).features[0], rel=1e-5)


def test_place_counts_the_names_preferred_to_ones_own():
    judged = Judged(np.zeros((2, 1)), np.array([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5]]))
    assert judged.places(np.array([1, 0])).tolist() == [0, 2]


def test_frechet_distance_of_diagonal_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    spread, real_spread, shift = np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 0.5]), np.array([1.0, 0.0, -2.0])
    features = rng.normal(size=(200_000, 3)) * spread + shift
    found = frechet(features, Reference(np.zeros(3), np.diag(real_spread**2)))
    assert found == pytest.approx(((spread - real_spread) ** 2).sum() + (shift**2).sum(), rel=0.02)  # sampling error


def test_frechet_distance_of_features_to_their_own_moments_is_zero():
    features = np.random.default_rng(0).normal(size=(40, 6)) @ np.random.default_rng(1).normal(size=(6, 6))
    own = Reference(features.mean(0), np.cov(features, rowvar=False))
    assert frechet(features, own) == pytest.approx(0, abs=1e-9 * np.trace(own.covariance))


def test_two_real_pictures_lie_one_apart_on_average():
    real = np.random.default_rng(0).normal(size=(20_000, 4)) * [1, 2, 3, 4]
    reference = Reference(real.mean(0), np.cov(real, rowvar=False))
    distances = feature_distances(real[::2], real[1::2], reference)
    assert np.sqrt((distances**2).mean()) == pytest.approx(1, rel=0.02)
    assert not feature_distances(real, real, reference).any()


@pytest.mark.parametrize("missing", ["judge.onnx", "reference.npz", "captions.json"])
def test_a_missing_file_is_named(judge_folder, tmp_path, missing):
    shutil.copytree(judge_folder, tmp_path / "judge")
    (tmp_path / "judge" / missing).unlink()
    with pytest.raises(JudgeError, match=missing):
        Judge.open(tmp_path / "judge")


def test_names_that_do_not_fit_the_logits_are_told(judge_folder, tmp_path):
    shutil.copytree(judge_folder, tmp_path / "judge")
    (tmp_path / "judge" / "captions.json").write_text('{"a": 1}')
    with pytest.raises(JudgeError, match="not a list of names"):
        Judge.open(tmp_path / "judge")
