"""What a bundle makes of a schedule: guidance by noise level, and networks that are not there."""

import msgspec
import numpy as np
import pytest

from hsruntime.bundle.reader import open_bundle
from hsruntime.loop.flow import noise_levels
from hsruntime.schedule.fit import schedule_for
from hsruntime.schedule.schedule import ScheduleError


@pytest.fixture(scope="module")
def facts(tiny_bundle):
    return open_bundle(tiny_bundle).manifest.facts


@pytest.mark.parametrize("grid", ["diffusers", "trailing", "karras"])
@pytest.mark.parametrize("interval", [(0, 1), (0.25, 0.8), (0, 0.5), (0.6, 1)])
@pytest.mark.parametrize("text", ["large:12", "large:5,skip:2,small:5", "large:4,light:8"])
def test_guidance_runs_at_the_noise_levels_of_its_interval_alone(facts, grid, interval, text):
    low, high = interval
    try:
        found = schedule_for(facts, f"{text};grid={grid},guidance={low}/{high}")
    except ScheduleError as err:
        assert "full guidance" in err.message  # light after a large step that left some out
        return
    asked = schedule_for(facts, f"{text};grid={grid}")
    levels = noise_levels(facts.sigmas, found, tokens=16)
    assert np.array_equal(levels, noise_levels(facts.sigmas, asked, tokens=16))
    assert found.guidance is None
    steps = [segment for segment in found.segments for _ in range(segment.steps)]
    modes = [segment.mode for segment in asked.segments for _ in range(segment.steps)]
    assert [step.mode for step in steps] == modes
    for step, level in zip(steps, levels, strict=False):
        off = not low < level <= high and step.mode != "skip"
        assert step.guidance == ("off" if off else "full"), level


def test_interval_of_everything_changes_nothing(facts):
    assert schedule_for(facts, "hybridstitch;guidance=0/1") == schedule_for(facts, "hybridstitch")


@pytest.mark.parametrize(
    ("missing", "text", "words"),
    [
        ("small", "large:2,small:1", r"segment 2 \(small:1\): the bundle has no small"),
        ("small", "large:2,hybrid:1", r"segment 2 \(hybrid:1\): the bundle has no small"),
        ("small", "large:2,region:1;signal=gap", r"segment 2 \(region:1\): the bundle has no small"),
        ("light", "large:2,light:1", r"segment 2 \(light:1\): the bundle has no light"),
        ("light", "dbcache", r"the bundle has no light"),
    ],
)
def test_network_that_is_not_there_is_named(facts, missing, text, words):
    without = msgspec.structs.replace(facts, **{missing: None})
    with pytest.raises(ScheduleError, match=words):
        schedule_for(without, text)
    assert schedule_for(facts, text)


@pytest.mark.parametrize("text", ["large:2,region:1;signal=std", "large:2,refined:1", "large:2,skip:3", "taylorseer"])
def test_what_needs_no_small_runs_without_it(facts, text):
    assert schedule_for(msgspec.structs.replace(facts, small=None), text)
