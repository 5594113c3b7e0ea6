from hsexport.measure.tune.candidates import Candidate, Policy, differ_in_one, family, step_counts
from hsruntime.schedule.presets import resolve_schedule

KINDS = {"large", "small", "large/small", "small/large", "large/hybrid/small", "large/region"}


def test_family_holds_every_kind_and_nothing_twice():
    found = family(28)
    assert {c.kind for c in found} == KINDS
    assert len({c.schedule for c in found}) == len(found)


def test_no_candidate_takes_more_steps_than_large_itself():
    for steps in (1, 2, 3, 28, 50):
        assert all(0 < c.total <= steps and min(c.steps) > 0 for c in family(steps))


def test_step_counts_are_the_documented_ones():
    assert step_counts(28) == [28, 20, 16, 14, 12, 10, 8]


def test_schedule_is_the_runtimes_own_short_form():
    candidate = Candidate(("large", "hybrid", "small"), (8, 7, 13), policy=Policy("change", 0.4))
    schedule = resolve_schedule(candidate.schedule, None, 28)
    assert [(s.mode, s.steps) for s in schedule.segments] == [("large", 8), ("hybrid", 7), ("small", 13)]
    assert (schedule.region.signal, schedule.region.ratio) == ("change", 0.4)


def test_schedule_names_what_differs_from_the_plainest():
    cached = Candidate(("large", "region"), (4, 4), "ab2", Policy("gap", 0.3, "cached"))
    assert cached.schedule == "large:4,region:4;solver=ab2,signal=gap,ratio=0.3,text=cached"
    assert Candidate(("large",), (14,)).schedule == "large:14"


def test_one_different_choice_makes_a_neighbour():
    own = Candidate(("large", "region"), (4, 4), policy=Policy("gap", 0.3))
    assert differ_in_one(own, Candidate(("large", "region"), (4, 4), policy=Policy("std", 0.3)))
    assert differ_in_one(own, Candidate(("large", "region"), (4, 4), "ab2", Policy("gap", 0.3)))
    assert not differ_in_one(own, own)
    assert not differ_in_one(own, Candidate(("large", "region"), (4, 4), policy=Policy("std", 0.4)))
    assert not differ_in_one(own, Candidate(("large", "region"), (5, 3), policy=Policy("std", 0.3)))
