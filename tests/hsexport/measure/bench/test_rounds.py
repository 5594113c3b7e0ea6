import numpy as np
import pytest

from hsengines.errors import HSError
from hsexport.measure.bench.rounds import CONVERGED, LARGE, Contender, Work, contestant, play
from hsexport.measure.prompts import Prompt
from hsruntime import Session
from hsruntime.schedule.presets import schedule_from_text

SCHEDULES = {LARGE: "large:4", CONVERGED: "large:9", "mixed": "large:2,hybrid:1,small:1"}
ENTRANTS = dict(SCHEDULES)
REFERENCES = LARGE, CONVERGED


@pytest.fixture(scope="module")
def contestants(tiny_bundle):
    with Session.open(tiny_bundle) as session:
        schedules = {name: schedule_from_text(text) for name, text in SCHEDULES.items()}
        yield {n: contestant(session, Contender(n, s)) for n, s in schedules.items()}


@pytest.fixture(scope="module")
def played(contestants):
    return play(contestants, Prompt(3, "abc"), REFERENCES)


def test_every_contestant_draws_the_same_noise_in_an_order_of_the_rounds_own(contestants):
    drawn = []

    def listening(name):
        def draw(prompt):
            drawn.append((prompt, name))
            return contestants[name](prompt)

        return draw

    prompts = [Prompt(seed, "abc") for seed in range(6)]
    for prompt in prompts:
        play({name: listening(name) for name in contestants}, prompt, REFERENCES)
    orders = [tuple(name for drawn_for, name in drawn if drawn_for == prompt) for prompt in prompts]
    assert all(sorted(order) == sorted(SCHEDULES) for order in orders)
    assert len(set(orders)) > 1


def test_a_shot_says_what_it_cost(played):
    mixed = played.shots["mixed"]
    assert mixed.picture.shape == (16, 16, 3) and mixed.region.shape == (4, 4)
    assert 0 < mixed.loop_seconds < mixed.seconds
    assert mixed.schedule == "large:2,hybrid:1,small:1;signal=gap,ratio=0.3"
    assert played.shots[LARGE].region is None


def test_promised_speedup_is_over_large_at_the_bundles_default_steps(played):
    assert played.shots[LARGE].predicted == pytest.approx(28 / 4)
    assert played.shots[CONVERGED].predicted == pytest.approx(28 / 9)


def test_no_reference_has_a_distance_to_itself(played):
    assert set(played.distances[LARGE]["psnr"]) == {CONVERGED, "mixed"}
    assert set(played.distances[CONVERGED]["flip"]) == {LARGE, "mixed"}
    assert played.distances[LARGE]["flip"]["mixed"] > 0


@pytest.mark.parametrize(("text", "cut"), [("abc", False), ("abcdefghijklmnopqrstuvwxyz", True)])
def test_a_prompt_that_is_cut_is_remembered(contestants, text, cut):
    assert play(contestants, Prompt(0, text), REFERENCES).cut == cut


def test_a_kept_round_comes_back_whole(played, tmp_path):
    work = Work(tmp_path / "work", ["machine"])
    assert work.find(played.prompt, ENTRANTS) is None
    work.keep(ENTRANTS, played)
    again = work.find(played.prompt, ENTRANTS)
    assert again.prompt == played.prompt and again.distances == played.distances and again.cut == played.cut
    for name, shot in played.shots.items():
        assert np.array_equal(again.shots[name].picture, shot.picture)
        assert again.shots[name].loop_seconds == shot.loop_seconds
    assert np.array_equal(again.shots["mixed"].region, played.shots["mixed"].region)
    assert [file.suffix for file in (tmp_path / "work").iterdir()] == [".zip"]


@pytest.mark.parametrize(
    ("facts", "prompt", "entrants"),
    [
        (["other machine"], Prompt(3, "abc"), ENTRANTS),
        (["machine"], Prompt(4, "abc"), ENTRANTS),
        (["machine"], Prompt(3, "abd"), ENTRANTS),
        (["machine"], Prompt(3, "abc"), ENTRANTS | {"mixed": "large:3,hybrid:1"}),
        (["machine"], Prompt(3, "abc"), ENTRANTS | {"more": "small:4"}),
    ],
)
def test_a_round_of_other_facts_is_not_taken_up(played, tmp_path, facts, prompt, entrants):
    Work(tmp_path, ["machine"]).keep(ENTRANTS, played)
    assert Work(tmp_path, facts).find(prompt, entrants) is None


def test_a_damaged_round_is_named(played, tmp_path):
    work = Work(tmp_path, ["machine"])
    work.keep(ENTRANTS, played)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(HSError, match=f"{file.name} is damaged.*delete it"):
        work.find(played.prompt, ENTRANTS)


def test_an_interrupted_write_leaves_nothing(played, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("hsexport.measure.bench.rounds.png_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Work(tmp_path, ["machine"]).keep(ENTRANTS, played)
    assert not list(tmp_path.iterdir())
