from itertools import pairwise

import pytest
import torch

from demo_training import checkpoint
from demo_training.schedule import batch_at, generator_at, learning_rate_scale


def test_every_pass_over_the_corpus_sees_each_picture_once():
    picks = torch.cat([batch_at(0, step, size=4, count=10) for step in range(5)]).tolist()
    assert sorted(picks[:10]) == sorted(picks[10:]) == list(range(10))
    assert picks[:10] != picks[10:]


def test_a_resumed_run_draws_what_the_whole_run_would_have_drawn():
    assert torch.equal(batch_at(3, 17, 8, 100), batch_at(3, 17, 8, 100))
    first, again = (torch.randn(4, generator=generator_at(3, 17)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.randn(4, generator=generator_at(3, 18)))


def test_the_rate_warms_up_stays_and_falls_to_zero():
    scales = [learning_rate_scale(step, 1000) for step in range(1001)]
    assert scales[0] == pytest.approx(0.01)
    assert scales[100:700] == [1.0] * 600
    assert scales[1000] == 0 and all(a > b for a, b in pairwise(scales[701:]))


def test_a_checkpoint_comes_back_whole_and_nothing_else_stays(tmp_path):
    checkpoint.save(tmp_path / "stage.pt", {"step": 3, "model": {"w": torch.ones(2)}})
    checkpoint.save(tmp_path / "stage.pt", {"step": 4, "model": {"w": torch.zeros(2)}})
    state = checkpoint.load(tmp_path / "stage.pt")
    assert state["step"] == 4 and not state["model"]["w"].any()
    assert [file.name for file in tmp_path.iterdir()] == ["stage.pt"]
    assert checkpoint.load(tmp_path / "other.pt") is None
