import pytest

from hsruntime.schedule.presets import PRESETS, resolve_schedule, schedule_from_text
from hsruntime.schedule.schedule import ScheduleError, check_schedule


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "fewer_steps"])
@pytest.mark.parametrize("steps", range(6, 61))
def test_preset_runs_in_as_many_steps_as_asked_for(preset, steps):
    schedule = check_schedule(PRESETS[preset](steps))
    assert schedule.steps == sum(s.steps for s in schedule.segments) == steps


@pytest.mark.parametrize("steps", [1, 27, 28])
def test_fewer_steps_are_half_as_many(steps):
    assert str(PRESETS["fewer_steps"](steps)) == f"large:{max(1, round(steps / 2))}"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("steps", range(1, 6))
def test_preset_in_few_steps_runs_or_says_why_not(preset, steps):
    try:
        check_schedule(PRESETS[preset](steps))
    except ScheduleError as err:
        assert f"preset '{preset}'" in err.message and err.hint


@pytest.mark.parametrize("preset", [name for name in PRESETS if "adaptive" not in name])
def test_a_presets_short_form_reads_back(preset):
    schedule = PRESETS[preset](28)
    assert schedule_from_text(str(schedule)) == schedule


@pytest.mark.parametrize("steps", range(3, 61))
def test_hybridstitch_is_large_then_hybrid_then_small(steps):
    assert [s.mode for s in PRESETS["hybridstitch"](steps).segments] == ["large", "hybrid", "small"]


@pytest.mark.parametrize("name", ["large", "small"])
def test_one_models_preset_runs_that_model_alone(name):
    assert [s.mode for s in PRESETS[name](1).segments] == [name]


@pytest.mark.parametrize("steps", [1, 2])
def test_hybridstitch_in_too_few_steps_is_told(steps):
    with pytest.raises(ScheduleError, match=f"'hybridstitch' has 3 segments, {steps} steps are too few; ask for 3"):
        resolve_schedule("hybridstitch", steps, 28)


def test_preset_without_steps_takes_the_default():
    assert resolve_schedule(" large ", None, 11).steps == 11


@pytest.mark.parametrize("steps", [None, 5])
def test_written_out_schedule_brings_its_own_steps(steps):
    assert resolve_schedule("large:3,small:2", steps, 28).steps == 5


def test_schedule_resolves_to_itself():
    schedule = schedule_from_text("large:3,small:2")
    assert resolve_schedule(schedule, None, 28) is schedule


@pytest.mark.parametrize("wanted", ["large:3,small:2", schedule_from_text("large:3,small:2")])
def test_contradicting_numbers_of_steps_are_told(wanted):
    with pytest.raises(ScheduleError, match="the schedule has 5 steps, 6 were asked for; leave one of the two out"):
        resolve_schedule(wanted, 6, 28)


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_too_few(steps):
    with pytest.raises(ScheduleError, match=f"{steps} steps are too few; ask for 1 or more"):
        resolve_schedule("large", steps, 28)


@pytest.mark.parametrize(
    ("steps", "default"), [(10_001, 28), (10**5000, 28), (None, 10**400)], ids=["more", "huge", "default"]
)
def test_too_many_steps_are_told(steps, default):
    with pytest.raises(ScheduleError, match="more than 10000 steps were asked for; ask for 10000 or fewer"):
        resolve_schedule("hybridstitch", steps, default)


def test_unknown_preset_is_told_with_all_presets():
    with pytest.raises(ScheduleError, match=r"there is no preset 'fast'; presets: hybridstitch, .*or segments like"):
        resolve_schedule("fast", None, 28)


def test_a_preset_takes_another_solver_and_grid():
    found = resolve_schedule("hybridstitch; grid=trailing, solver=dpmpp_2m", 12, 28)
    plain = resolve_schedule("hybridstitch", 12, 28)
    assert (found.grid, found.solver, found.segments) == ("trailing", "dpmpp_2m", plain.segments)
    with pytest.raises(ScheduleError, match="preset 'large' does not take 'ratio'; allowed behind a preset: solver"):
        resolve_schedule("large;ratio=0.5", None, 28)
