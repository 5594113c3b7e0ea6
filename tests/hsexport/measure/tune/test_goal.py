import numpy as np
import pytest

from hsexport.measure.pictures import METRICS
from hsexport.measure.tune.goal import AtLeastAsClose, AtLeastAsFast, TuneError, metric_called, tells_apart
from hsexport.measure.tune.measuring import Score
from hsexport.measure.turns import mean_of


def score(values, speedups, metric="psnr"):
    return Score(metric_called(metric), np.array(values, float), np.array(speedups, float))


def test_too_slow_by_the_measured_median():
    goal = AtLeastAsFast(1.8)
    assert goal.failure(score([30, 30, 30], [1.9, 1.8, 0.1])) is None
    assert goal.failure(score([30, 30, 30], [1.7, 1.8, 1.7])) == (
        "too slow",
        "measured 1.70 on 3 prompts; 1.8 wanted",
    )


@pytest.mark.parametrize(("metric", "near", "far", "limit"), [("psnr", 31, 29, 30), ("flip", 0.1, 0.3, 0.2)])
def test_too_far_in_the_metrics_own_direction(metric, near, far, limit):
    goal = AtLeastAsClose(limit)
    assert goal.failure(score([near, near], [2, 2], metric)) is None
    ground, words = goal.failure(score([far, far], [2, 2], metric))
    assert ground == "too far" and words.startswith(f"{metric.upper()} {far}") and f"{limit}" in words


def test_near_miss_on_few_prompts_is_not_hopeless():
    assert not AtLeastAsFast(1.8).is_hopeless(score([30] * 4, [1.7, 1.9, 1.75, 1.7]))
    assert AtLeastAsFast(1.8).is_hopeless(score([30] * 4, [1.5, 1.6, 1.55, 1.5]))
    assert not AtLeastAsClose(30).is_hopeless(score([28, 33, 27, 29], [2] * 4))
    assert AtLeastAsClose(30).is_hopeless(score([20, 21, 20, 19], [2] * 4))


def test_pairing_tells_apart_what_unpaired_means_do_not():
    hard = np.random.default_rng(0).normal(30, 5, 24)
    near, far = score(hard, [2] * 24), score(hard - 0.5, [2] * 24)
    lead = AtLeastAsFast(1.8).lead(near, far)
    assert tells_apart(lead) and lead.value == pytest.approx(0.5)
    assert mean_of(near.values).low < far.value < mean_of(near.values).high


def test_noise_is_not_told_apart():
    noise = np.random.default_rng(0).normal(0, 1, (2, 24))
    first, second = (score(30 + row, 2 + row) for row in noise)
    assert not tells_apart(AtLeastAsFast(1.8).lead(first, second))
    assert not tells_apart(AtLeastAsClose(20).lead(first, second))


def test_only_prompts_that_both_have_are_compared():
    assert AtLeastAsFast(1.8).lead(score([31], [2]), score([30, 10], [2, 2])).value == 1
    assert AtLeastAsClose(20).lead(score([31], [3]), score([30, 10], [2, 9])).value == 1


def test_unknown_metric_is_named_with_the_known_ones():
    with pytest.raises(TuneError, match="no metric 'vif'; allowed: psnr, ssim, flip, stlpips"):
        metric_called("vif")


def test_lpips_without_its_graph_is_told_with_what_writes_it(monkeypatch):
    monkeypatch.setattr("hsexport.measure.tune.goal.METRICS", [m for m in METRICS if m.name != "lpips"])
    with pytest.raises(TuneError, match=r"no metric 'lpips'; psnr, .* scripts/export_perceptual writes lpips"):
        metric_called("lpips")
