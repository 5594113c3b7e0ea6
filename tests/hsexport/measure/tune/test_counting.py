import pytest

from hsexport.measure.tune.candidates import (
    DIFFUSERS,
    MARGIN,
    Candidate,
    Correction,
    Policy,
    Timing,
    correction_from,
    count_all,
    family,
    fast_enough,
    not_dominated,
    one_of_each_kind,
    spread,
)

TIMINGS = (DIFFUSERS, Timing(solver="ab2"))


@pytest.fixture
def counted(manifest):
    return count_all(family(28, TIMINGS, manifest.facts), manifest.facts, 28)[0]


def test_speed_is_that_over_large_in_its_own_steps(manifest):
    half, same = count_all([Candidate(("large",), (14,)), Candidate(("large",), (28,))], manifest.facts, 28)[0]
    assert (half.speedup, same.speedup) == (2, 1)


def test_what_the_runtime_refuses_is_rejected_in_its_words(manifest):
    one_large_step = Candidate(("large", "hybrid", "small"), (1, 1, 1), policy=Policy("change"))
    counted, rejected = count_all([one_large_step], manifest.facts, 28)
    assert not counted
    assert rejected[0].ground == "refused" and "'change' compares two steps" in rejected[0].reason


def test_only_what_counting_lets_through_is_kept(counted):
    kept, slow = fast_enough(counted, 1.8, Correction())
    assert kept and min(c.speedup for c in kept) >= 1.8 * MARGIN
    assert len(kept) + len(slow) == len(counted)
    assert all(r.ground == "too slow" and "1.8 wanted" in r.reason for r in slow)


def test_correction_turns_counted_into_measured(counted):
    probe = next(c for c in counted if c.candidate.kind == "large/small")
    correction = correction_from([(probe, probe.speedup * 0.8)])
    assert correction.expected(probe) == pytest.approx(probe.speedup * 0.8)
    _, slow = fast_enough([probe], probe.speedup * 0.9, correction)
    assert f"{probe.speedup * 0.8:.2f} as its kind runs here" in slow[0].reason


def test_dominated_is_whatever_spends_less_on_everything(counted):
    fast, _ = fast_enough(counted, 1.8, Correction())
    kept, dominated = not_dominated(fast)
    assert next(c.candidate.schedule for c in kept if c.candidate.modes == ("large",)) == "large:15"
    assert "large:14" in {r.schedule for r in dominated}
    switches = [c.candidate for c in kept if c.candidate.kind == "large/small" and c.candidate.timing == DIFFUSERS]
    assert len(switches) == len({c.total for c in switches})  # of each number of steps the one with most of large


def test_probe_has_every_kind_once_for_each_solver(counted):
    probes = one_of_each_kind(counted, 1.8)
    assert len(probes) == len({(c.candidate.kind, c.candidate.timing.solver) for c in counted})
    assert next(c for c in probes if c.candidate.schedule.startswith("large:15")).speedup == pytest.approx(28 / 15)


def test_first_round_takes_every_kind_in_turn(counted):
    kept, _ = not_dominated(fast_enough(counted, 1.8, Correction())[0])
    field, left_out = spread(kept, 12)
    assert len(field) == 12 and len(left_out) == len(kept) - 12
    assert {c.candidate.kind for c in field} == {c.candidate.kind for c in kept}
