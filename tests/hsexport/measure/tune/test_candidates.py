import msgspec
import pytest

from hsexport.measure.tune.candidates import (
    DIFFUSERS,
    TIMINGS,
    Candidate,
    Policy,
    Timing,
    count_all,
    differ_in_one,
    family,
    step_counts,
)
from hsruntime.schedule.fit import schedule_for
from hsruntime.schedule.presets import resolve_schedule

SECOND = Timing(solver="ab2")
TWO = [DIFFUSERS, Timing("trailing", 2.5, "dpmpp_2m")]
KINDS = {
    "large", "large, guidance in an interval", "small", "large/small", "small/large", "large/hybrid/small",
    "large/region", "large/refined", "large/skip", "large/light",
}  # fmt: skip
OF_SMALL = {"small", "large/small", "small/large", "large/hybrid/small"}


@pytest.fixture
def facts(manifest):
    """With a light form, as if large had four blocks."""
    large = msgspec.structs.replace(manifest.facts.large, layers=4)
    return msgspec.structs.replace(manifest.facts, large=large, light=msgspec.structs.replace(large, outer=(1, 1)))


def test_family_holds_every_kind_and_nothing_twice(facts):
    found = family(28, TWO, facts)
    assert {c.kind for c in found} == KINDS
    assert len({c.schedule for c in found}) == len(found)


@pytest.mark.parametrize("without", [{"small"}, {"light"}, {"small", "light"}])
def test_family_asks_for_no_network_that_is_not_there(facts, without):
    left = msgspec.structs.replace(facts, **dict.fromkeys(without))
    found = family(28, TWO, left)
    expected = KINDS - (OF_SMALL if "small" in without else set())
    assert {c.kind for c in found} == expected - ({"large/light", "large/refined"} if "light" in without else set())
    assert not [r for r in count_all(found, left, 28)[1] if "the bundle has no" in r.reason]


def test_no_candidate_takes_more_steps_than_large_itself(facts):
    for steps in (1, 2, 3, 28, 50):
        assert all(0 < c.total <= steps and min(c.steps) > 0 for c in family(steps, TWO, facts))


def test_candidates_are_what_the_runtime_takes(facts):
    """But for a change between steps that are not there, cached rows that guidance left out, and the like."""
    counted, refused = count_all(family(28, TWO, facts), facts, 28)
    assert len(refused) < len(counted) / 10
    for kind in KINDS:
        assert any(c.candidate.kind == kind for c in counted)


def test_every_timing_is_a_schedule_of_its_own(facts):
    shown = {str(schedule_for(facts, Candidate(("large",), (8,), timing).schedule)) for timing in TIMINGS}
    assert len(shown) == len(TIMINGS)


def test_step_counts_are_the_documented_ones():
    assert step_counts(28) == [28, 20, 16, 14, 12, 10, 8, 6, 4]


def test_schedule_is_the_runtimes_own_short_form():
    candidate = Candidate(("large", "hybrid", "small"), (8, 7, 13), policy=Policy("change", 0.4))
    schedule = resolve_schedule(candidate.schedule, None, 28)
    assert [(s.mode, s.steps) for s in schedule.segments] == [("large", 8), ("hybrid", 7), ("small", 13)]
    assert (schedule.region.signal, schedule.region.ratio) == ("change", 0.4)


def test_schedule_names_what_differs_from_the_plainest():
    cached = Candidate(("large", "region"), (4, 4), SECOND, Policy("gap", 0.3, "cached"))
    assert cached.schedule == "large:4,region:4;solver=ab2,signal=gap,ratio=0.3,text=cached"
    assert Candidate(("large",), (14,)).schedule == "large:14"


def test_one_different_choice_makes_a_neighbour():
    own = Candidate(("large", "region"), (4, 4), policy=Policy("gap", 0.3))
    assert differ_in_one(own, Candidate(("large", "region"), (4, 4), policy=Policy("std", 0.3)))
    assert differ_in_one(own, Candidate(("large", "region"), (4, 4), SECOND, Policy("gap", 0.3)))
    assert not differ_in_one(own, own)
    assert not differ_in_one(own, Candidate(("large", "region"), (4, 4), policy=Policy("std", 0.4)))
    assert not differ_in_one(own, Candidate(("large", "region"), (5, 3), policy=Policy("std", 0.3)))


def test_turns_begin_with_large_and_end_with_it(facts):
    turns = [c for c in family(28, [DIFFUSERS], facts) if c.kind in ("large/skip", "large/light")]
    assert all(c.modes[0] == c.modes[-1] == "large" for c in turns)
    assert {c.order for c in turns if c.kind == "large/skip"} == {0, 1}
