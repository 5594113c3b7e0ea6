import json
import shutil
from math import prod
from pathlib import Path

import msgspec
import pytest

from hsexport.measure.tune.candidates import TIMINGS
from hsexport.measure.tune.goal import AtLeastAsClose, AtLeastAsFast, TuneError, WithinBudget
from hsexport.measure.tune.levers import to_go_on
from hsexport.measure.tune.measuring import LEDGER_NAME
from hsexport.measure.tune.tune import TuneRequest, tune
from hsexport.progress import Reporter
from hsruntime.bundle.reader import open_bundle
from hsruntime.session import Session

PROMPTS = 6


def request(bundle, goal, **changes):
    """A search on a few prompts, kept beside the bundle."""
    work = bundle.with_name("work")
    work.mkdir(exist_ok=True)
    (work / "prompts.txt").write_text("".join(f"abc {i}\n" for i in range(PROMPTS)))
    told = {"reference": "same-steps", "prompt_file": work / "prompts.txt", **changes}
    return TuneRequest(bundle=bundle, goal=goal, work=work, **told)


class Stopping(Reporter):
    """Presses Ctrl-C in the middle of a stage."""

    def __init__(self, stage, after):
        self.wanted, self.after, self.now = stage, after, ""

    def stage(self, name, items):
        self.now = name

    def advance(self, item, phase, done, total):
        if self.now == self.wanted:
            self.after -= 1
            if self.after == 0:
                raise KeyboardInterrupt


@pytest.fixture(scope="module")
def tuned_bundle(tiny_bundle, tmp_path_factory):
    return Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("tuned") / "own.bundle"))


@pytest.fixture(scope="module")
def tuned(tuned_bundle):
    return tune(request(tuned_bundle, AtLeastAsFast(1.5)), Reporter())


def test_winner_is_fast_enough_by_measurement_and_nearest_of_those(tuned):
    finalists = tuned.found.rows[: tuned.found.finalists]
    assert all(row.score.speedup >= 1.5 and row.score.prompts == PROMPTS for row in finalists)
    assert tuned.winner.score.value == max(row.score.value for row in finalists)


def test_large_in_fewer_steps_is_among_the_finalists(tuned):
    assert "large" in {row.counted.candidate.kind for row in tuned.found.rows[: tuned.found.finalists]}


def test_every_candidate_is_either_measured_or_rejected_with_a_reason(tuned):
    measured = {row.counted.candidate.schedule for row in tuned.found.rows}
    rejected = {r.schedule for r in tuned.found.rejected}
    assert not measured & rejected
    assert all(r.reason for r in tuned.found.rejected)
    assert all(row.rejection.reason for row in tuned.found.rows[tuned.found.finalists :] if row.rejection)


def test_winner_becomes_the_default_and_nothing_else_changes(tiny_bundle, tuned_bundle, tuned):
    before, after = (open_bundle(path).manifest for path in (tiny_bundle, tuned_bundle))  # every hash checked
    winner = tuned.winner.counted.schedule
    assert (after.facts.defaults.schedule, after.facts.defaults.steps) == (str(winner), winner.steps)
    facts = msgspec.structs.replace(after.facts, defaults=before.facts.defaults)
    assert msgspec.structs.replace(after, facts=facts, identity=before.identity) == before
    assert after.identity != before.identity
    assert sorted(p.name for p in tuned_bundle.parent.iterdir()) == ["own.bundle", "work"]
    with Session.open(tuned_bundle) as session:
        assert session.generate("abc").schedule == winner


def test_noise_levels_and_solvers_are_compared_on_large_alone_and_the_nearest_go_on(tuned):
    values = [each.score.value for each in tuned.timed]
    assert len(values) == len(TIMINGS) and values == sorted(values, reverse=True)
    used = {row.counted.candidate.timing for row in tuned.found.rows}
    assert used <= set(to_go_on(tuned.timed)) and tuned.timed[0].timing in used


def test_levers_make_up_the_measured_speedup(tuned):
    assert [lever.name for lever in tuned.levers][:3] == ["fewer steps", "noise levels", "solver"]
    assert prod(lever.factor for lever in tuned.levers) == pytest.approx(tuned.winner.score.speedup)


@pytest.mark.slow
def test_budget_is_a_speedup_over_what_large_takes_here(own_bundle):
    with Session.open(own_bundle) as session:
        session.generate("abc 0", schedule="large:28")
        large = session.generate("abc 0", schedule="large:28").loop_seconds
    outcome = tune(request(own_bundle, WithinBudget(1000 * large / 2), write=False), Reporter())
    assert outcome.winner.score.speedup >= outcome.goal.speedup > 1
    with pytest.raises(TuneError, match=r"large takes \d+ ms, the budget is 1e\+06; nothing is to be gained"):
        tune(request(own_bundle, WithinBudget(1e6), write=False), Reporter())


@pytest.mark.slow
def test_dry_run_leaves_the_bundle_alone(own_bundle):
    before = (own_bundle / "manifest.json").read_bytes()
    outcome = tune(request(own_bundle, AtLeastAsFast(1.5), write=False), Reporter())
    assert not outcome.written and (own_bundle / "manifest.json").read_bytes() == before


def test_second_run_measures_nothing_and_finds_the_same(tuned_bundle, tuned):
    again = tune(request(tuned_bundle, AtLeastAsFast(1.5)), Reporter())
    assert tuned.measured > 0 and again.measured == 0
    assert again.large == tuned.large == "large:28"  # not the steps that tuning made the default
    assert again.winner.counted == tuned.winner.counted


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["probe", "finals"])
def test_interrupted_search_goes_on_where_it_was(own_bundle, stage):
    wanted = request(own_bundle, AtLeastAsFast(1.5))
    before = (own_bundle / "manifest.json").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        tune(wanted, Stopping(stage, after=3))
    assert (own_bundle / "manifest.json").read_bytes() == before
    kept = len((wanted.work / LEDGER_NAME).read_bytes().splitlines()) - 1  # the first line is the defaults
    outcome = tune(wanted, Reporter())
    whole = len((wanted.work / LEDGER_NAME).read_bytes().splitlines()) - 1
    assert kept > 0 and outcome.measured == whole - kept


@pytest.mark.slow
def test_greatest_speed_within_a_distance(own_bundle):
    outcome = tune(request(own_bundle, AtLeastAsClose(25.0)), Reporter())
    finalists = outcome.found.rows[: outcome.found.finalists]
    assert all(row.score.value >= 25 and row.score.prompts == PROMPTS for row in finalists)
    assert outcome.winner.score.speedup == max(row.score.speedup for row in finalists)


@pytest.mark.slow
def test_distance_that_nothing_keeps_is_told_with_the_nearest(own_bundle):
    before = (own_bundle / "manifest.json").read_bytes()
    with pytest.raises(TuneError, match=r"the nearest has PSNR \d+\.\d+ dB"):
        tune(request(own_bundle, AtLeastAsClose(58.0)), Reporter())
    assert (own_bundle / "manifest.json").read_bytes() == before


def test_speedup_beyond_small_alone_is_refused_before_anything_runs(own_bundle):
    wanted = request(own_bundle, AtLeastAsFast(1000))
    with pytest.raises(TuneError, match="1000 is out of reach: the fastest, small:1"):
        tune(wanted, Reporter())
    assert len((wanted.work / LEDGER_NAME).read_bytes().splitlines()) == 1


@pytest.mark.usefixtures("tuned")
def test_ledger_is_plain_json_lines(tuned_bundle):
    lines = (tuned_bundle.with_name("work") / LEDGER_NAME).read_text().splitlines()
    kinds = [json.loads(line)["type"] for line in lines]
    assert kinds[0] == "defaults" and set(kinds[1:]) == {"measured"}
