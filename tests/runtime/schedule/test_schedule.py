import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsruntime.schedule.presets import schedule_from_json, schedule_from_text
from hsruntime.schedule.schedule import (
    MODES,
    RegionPolicy,
    Schedule,
    ScheduleError,
    Segment,
    Settled,
    check_schedule,
    schedule_json,
)


def segment(mode, steps):
    return Segment(steps, *MODES[mode])


POLICIES = st.builds(
    RegionPolicy,
    signal=st.sampled_from(["change", "gap", "std", "random", "center"]),
    ratio=st.floats(0, 1, exclude_min=True),
    refresh=st.integers(0, 50),
    reselect=st.integers(0, 3),
    starvation=st.floats(0, 10),
    text=st.sampled_from(["live", "cached"]),
).filter(
    lambda policy: (
        (policy.signal != "change" or policy.refresh == 0)
        and (policy.reselect == 0 or (policy.refresh == 0 and policy.signal != "gap"))
    )
)


@st.composite
def schedules(draw, policies=POLICIES):
    """Schedules that can run: hybrid stands behind large, and two steps lie before it."""
    segments, modes, ran = [], ["large", "small"], set()
    for _ in range(draw(st.integers(1, 6))):
        mode = draw(st.sampled_from(modes))
        segments.append(segment(mode, draw(st.integers(2, 60))))
        ran.add(mode)
        modes = ["large", "small", "skip", *(["light"] if "large" in ran else [])]
        modes += ["hybrid", "region", "refined"] if segments[-1].large else []
    interval = draw(st.none() | st.tuples(st.sampled_from([0, 0.2]), st.sampled_from([0.5, 1])))
    return Schedule(
        sum(s.steps for s in segments),
        segments,
        draw(policies),
        draw(st.sampled_from(["euler", "ab2", "dpmpp_2m"])),
        guidance=interval,
        order=draw(st.integers(0, 2)),
    )


@given(schedules())
def test_json_reads_back_as_it_was_written(schedule):
    assert schedule_from_json(schedule_json(schedule)) == schedule
    assert schedule_from_text(schedule_json(schedule)) == schedule


@given(schedules())
def test_short_form_reads_back_as_it_was_written(schedule):
    """A schedule without a region does not print the policy that it does not use."""
    used = schedule.region if schedule.has_region else RegionPolicy()
    assert schedule_from_text(str(schedule)) == msgspec.structs.replace(schedule, region=used)


def test_segments_that_take_turns_are_written_once():
    text = "large:2,(skip:2,large:1)*3,small:1"
    schedule = schedule_from_text(text)
    assert [(s.mode, s.steps) for s in schedule.segments][1:5] == [("skip", 2), ("large", 1)] * 2
    assert (schedule.steps, str(schedule)) == (12, text)
    assert str(schedule_from_text("(large:1)*3,small:1")) == "large:1,large:1,large:1,small:1"


@pytest.mark.parametrize(
    "text", ["(large:1)*0", "(large:1)*99999", "(large:1", "large:1)*3", "((large:1)*2)*2", "()*3"]
)
def test_turns_that_cannot_be_read_are_told(text):
    with pytest.raises(ScheduleError):
        schedule_from_text(text)


def test_bytes_that_are_not_utf8_are_told():
    with pytest.raises(ScheduleError, match="schedule: "):
        schedule_from_json(b'{"steps": 1, "\xff": 2, "segments": []}')


def test_policy_of_a_schedule_without_region_is_not_looked_at():
    assert schedule_from_text("large:4;signal=change,refresh=1").steps == 4


@given(st.text('large:hybridsmall10,;=. -{}"signaltiofresh', max_size=60))
def test_any_text_is_a_schedule_or_told_in_one_line(text):
    try:
        assert schedule_from_text(text).steps >= 1
    except ScheduleError as err:
        assert "\n" not in str(err)


def test_short_form_means_what_the_design_says():
    assert schedule_from_text(" large:10, hybrid:10 ,small:8 ; ratio=0.25 , signal=center,refresh=5 ") == Schedule(
        28,
        [Segment(10, large="full"), Segment(10, large="region", small="full"), Segment(8, small="full")],
        RegionPolicy(signal="center", ratio=0.25, refresh=5),
    )


@pytest.mark.parametrize(
    "text",
    [
        "large:5-27,small:1",
        "large:3,small+held:2,large:1,region+off:4;solver=ab2,signal=std,ratio=0.5,text=cached",
        "large:4,region:8;signal=std,ratio=0.5,reselect=1,starvation=0.1",
    ],
)
def test_the_grammar_of_every_method_reads_back(text):
    assert str(schedule_from_text(text)) == text


def test_an_early_end_by_another_measure_is_written_as_json():
    schedule = Schedule(9, [Segment(8, "full", until=Settled(3, 0.5)), Segment(1, None, "full")])
    assert schedule_from_text(str(schedule)) == schedule


def test_reselect_parts_a_region_segment():
    schedule = schedule_from_text("large:1,region:5;signal=std,reselect=2")
    assert [(s.mode, s.steps) for s in schedule.unrolled()] == [("large", 1), *[("region", n) for n in (2, 2, 1)]]


def test_json_leaves_out_what_a_segment_does_not_run():
    text = schedule_json(schedule_from_text("large:2,small:1"))
    assert '"segments":[{"steps":2,"large":"full"},{"steps":1,"small":"full"}]' in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"segment 1 '': there is no mode ''; allowed: large, hybrid, refined, region, small"),
        ("large:2,huge:3", r"segment 2 'huge:3': there is no mode 'huge'; allowed: large, hybrid, refined, region"),
        ("skip:2,large:1", r"segment 1 \(skip:2\) goes on with a velocity of a step before it; put large in front"),
        ("large:2,skip+off:2", r"segment 2 \(skip\+off:2\) runs no network, and no guidance"),
        ("small:2,light:1", r"segment 2 \(light:1\) takes what large's middle blocks did in a step before it"),
        ("large+off:2,light:1", r"segment 2 \(light:1\) has full guidance, and large\+off:2 before it leaves some out"),
        ("large:1,refined:2", r"signal 'gap' has light try large's last step by the one before it, and there is one"),
        ("large:2,small:1,refined:2", r"segment 3 \(refined:2\) needs keys and values of a large step before it"),
        ("large:2;guidance=0.9/0.2", r"guidance 0.9/0.2: the first is not below the second"),
        ("large:2;guidance=0.9", r"there is no guidance '0.9'; allowed: two noise levels from 0 to 1, as 0.2/0.9"),
        ("large:5-9,small:2;guidance=0.2/0.9", r"guidance is for noise levels, and a segment that ends early"),
        ("large:2;order=3", r"there is no order '3'; allowed: 0, 1, 2"),
        ("large:0", r"segment 1 'large:0': '0' is not a number of steps; write mode:steps"),
        ("large", r"segment 1 'large': '' is not a number of steps"),
        ("large:2,hybrid:-1", r"segment 2 'hybrid:-1': '' is not a number of steps"),
        ("hybrid:2", r"segment 1 \(hybrid:2\) needs .* large .*; put a large segment directly in front of it"),
        ("large:2,small:2,hybrid:2", r"segment 3 \(hybrid:2\) needs"),
        (
            "large:2,hybrid:2,small:1,region:2",
            r"segment 4 \(region:2\) needs keys and values of a large step before it",
        ),
        ("large:2+held", r"'2\+held' is not a number of steps"),
        ("large+none:2", r"there is no guidance 'none'; allowed: held, off"),
        ("large+held:2", r"segment 1 \(large\+held:2\) holds the guidance of a step before it, and there is none"),
        (
            "small:1,large+held:2,region:2",
            r"segment 3 .* needs keys and values with full guidance, large\+held:2 leaves",
        ),
        ("large:5-28", r"segment 1 \(large:5-28\) may end early, and no segment follows"),
        ("large:6-5,small:2", r"at least 6 of 5 steps"),
        ("large:2,region:3-9,small:2", r"an early end is for a network on the whole picture"),
        ("large:2-9,region:2", r"signal 'gap' must know the last step before it is taken; use signal=change"),
        ("large:2,region:2;solver=heun", r"there is no solver 'heun'; allowed: euler, ab2"),
        ("large:2,region:4;signal=std,refresh=2,reselect=1", r"refresh and reselect both choose"),
        ("large:2,region:4;reselect=1", r"signal 'gap' compares whole pictures.*use signal=std"),
        ("large:2,region+held:4;signal=std,reselect=1", r"wants full guidance; use refresh"),
        ("large:2,hybrid:2;ratio=0", r"region policy 'ratio=0': .*allowed: .*ratio above 0 up to 1"),
        ("large:2,hybrid:2;ratio=1.1", r"ratio above 0 up to 1"),
        ("large:2,hybrid:2;ratio=nan", r"ratio above 0 up to 1"),
        ("large:2,hybrid:2;refresh=-1", r"refresh and reselect from 0"),
        ("large:2,hybrid:2;signal=edges", r"signal=change\|gap\|std\|random\|center"),
        ("large:2,hybrid:2;starvation=30", r"starvation"),
        ("large:2,hybrid:2;feather=0.5", r"feather"),
        (
            "large:1,hybrid:2;signal=change",
            r"segment 2: signal 'change' compares two steps .*; give the large segment 2",
        ),
        ("small:5,large:1,hybrid:2;signal=change", "segment 3: signal 'change' compares two steps of large directly"),
        ("large:2,hybrid:2,large:1,hybrid:2;signal=change", "segment 4: signal 'change'"),
        ("large:4,hybrid:2;signal=change,refresh=1", "'change' .* a refresh has one; use signal=gap or refresh=0"),
        ("large:10001", "segment 1 'large:10001': that is more than 10000 steps; ask for 10000 or fewer"),
        ("large:" + "9" * 5000, r"^segment 1 'large:9{54}\.\.\.': that is more than 10000 steps"),
        ("large:6000,small:6000", "<= 10000.*steps"),
        ("large:2,hybrid:2;refresh=" + "9" * 5000, "refresh and reselect from 0"),
        ("large:\udcff", r"'large:\\udcff': '\\udcff' is not a number of steps"),
        ("\udcff:2", r"there is no mode '\\udcff'"),
        ("large:2,hybrid:2;signal=\udcff", "region policy"),
        ('{"\udcff": 2}', "schedule: .*surrogates not allowed; for example"),
        ("large:3;grid=cosine", "there is no grid 'cosine'; allowed: diffusers, trailing, karras, exponential, beta"),
        ("large:3;shift=none", "there is no shift 'none'; allowed: a number above 0"),
        ("large:3;shift=0", "schedule: .*>= 0.001.*shift"),
        ("large:3;sigmas=1/x/0.2", "there is no sigmas '1/x/0.2'; allowed: numbers above 0 up to 1"),
        ("large:3;sigmas=1/0.5", "there are 2 sigmas for 3 steps; give one for each step"),
        ("large:3;sigmas=1/0.5/0.5", "sigmas do not fall from each to the next"),
        ("large:3;sigmas=1/0.5/0.2,shift=2", "sigmas are noise levels, and grid and shift make others"),
        ("large:1\n2", r"'1\\n2' is not a number of steps"),
        ('{"steps": ' + "[" * 100_000, "schedule: .*for example"),
    ],
)
def test_text_that_cannot_run_is_told_with_what_is_allowed(text, words):
    with pytest.raises(ScheduleError, match=words) as told:
        schedule_from_text(text)
    assert "\n" not in str(told.value)
    assert len(str(told.value).encode()) < 400


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", r"schedule: .*for example"),
        ('{"steps": 3, "segments": []}', "needs at least one segment; for example large:10,hybrid:10,small:8"),
        ('{"steps": 3, "segments": [{"steps": 2, "large": "full"}]}', "have 2 steps together, the schedule says 3"),
        ('{"steps": 1, "segments": [{"steps": 1}]}', "segment 1 .skip:1. goes on with a velocity"),
        (
            '{"steps": 1, "segments": [{"steps": 1, "large": "full", "small": "full"}]}',
            "segment 1: large full, small full, light off is not a mode; allowed: large, hybrid, refined, region",
        ),
        ('{"steps": 1, "segments": [{"steps": 1, "large": "half"}]}', r"Invalid enum value 'half'.*segments"),
        ('{"steps": 1, "segments": [{"steps": 1, "medium": "full"}]}', r"unknown field `medium`"),
        ('{"steps": 0, "segments": []}', r">= 1.*steps"),
    ],
)
def test_json_that_cannot_run_is_told(text, words):
    with pytest.raises(ScheduleError, match=words):
        schedule_from_json(text)


@pytest.mark.parametrize(
    "region", [RegionPolicy(refresh=-1), RegionPolicy(ratio=0), RegionPolicy(ratio=2), RegionPolicy(signal="edges")]
)
def test_policy_made_in_python_is_checked_as_a_parsed_one(region):
    with pytest.raises(ScheduleError, match="region"):
        check_schedule(Schedule(4, [segment("large", 2), segment("hybrid", 2)], region))


def test_change_may_look_back_over_two_segments():
    assert schedule_from_text("large:1,large:1,hybrid:2;signal=change").steps == 4


@given(schedules())
def test_refresh_keeps_the_number_of_steps(schedule):
    assert sum(s.steps for s in schedule.unrolled()) == schedule.steps


@given(schedules(st.builds(RegionPolicy, refresh=st.integers(1, 9))))
def test_between_refreshes_lie_as_many_hybrid_steps_as_asked_for(schedule):
    """The last run of a segment may have one step more: a refresh there would have no hybrid step behind it."""
    every = schedule.region.refresh
    for whole in schedule.segments:
        runs = list(schedule.runs(whole))
        if whole.large != "region":
            assert runs == [whole]
            continue
        assert [run.mode for run in runs[1::2]] == ["large"] * (len(runs) // 2)
        assert {run.steps for run in runs[1::2]} <= {1}
        assert {run.steps for run in runs[:-1:2]} <= {every}
        assert runs[-1].mode == whole.mode and runs[-1].steps <= every + 1


@pytest.mark.parametrize(
    "text", ["large:3;grid=trailing,shift=2.5", "small:2;solver=dpmpp_2m,sigmas=1/0.25", "large:4;shift=0.5"]
)
def test_what_a_schedule_says_of_noise_levels_is_spelt_as_it_is_read(text):
    schedule = schedule_from_text(text)
    assert str(schedule) == text
    assert schedule_from_text(schedule_json(schedule)) == schedule


def test_refresh_without_a_hybrid_step_behind_it_is_left_out():
    runs = schedule_from_text("large:2,hybrid:3,small:1;refresh=2").unrolled()
    assert [(s.mode, s.steps) for s in runs] == [("large", 2), ("hybrid", 3), ("small", 1)]


def test_refresh_puts_single_large_steps_between_hybrid_ones():
    schedule = schedule_from_text("large:2,hybrid:7,small:1;refresh=2")
    assert [(s.mode, s.steps) for s in schedule.unrolled()] == [
        ("large", 2),
        ("hybrid", 2),
        ("large", 1),
        ("hybrid", 2),
        ("large", 1),
        ("hybrid", 1),
        ("small", 1),
    ]


def test_without_refresh_segments_run_as_written():
    schedule = schedule_from_text("large:2,hybrid:7,small:1")
    assert list(schedule.unrolled()) == schedule.segments
