import msgspec
import pytest

from hsexport.measure.bench.rounds import CONVERGED, LARGE, Contender, contenders_for
from hsexport.measure.prompts import PromptError, lines_of, spread
from hsruntime.bundle.reader import open_bundle
from hsruntime.schedule.presets import PRESETS, schedule_from_text
from hsruntime.schedule.schedule import ScheduleError


@pytest.fixture(scope="module")
def facts(tiny_bundle):
    return open_bundle(tiny_bundle).manifest.facts


def with_defaults(facts, **changed):
    return msgspec.structs.replace(facts, defaults=msgspec.structs.replace(facts.defaults, **changed))


def test_references_come_first_and_no_schedule_runs_twice(facts):
    contenders, _ = contenders_for(facts, ["small", "large:28", "small:28", "hybridstitch"])
    assert [c.name for c in contenders] == [LARGE, CONVERGED, "small", "hybridstitch"]


def test_default_choice_holds_every_preset_and_the_controls(facts):
    contenders, left_out = contenders_for(facts, [])
    assert [told.split()[0] for told in left_out] == ["edit"], "it wants a mask"
    ran = {str(c.schedule) for c in contenders}
    assert len(ran) == len(contenders)
    assert {str(preset(28)) for name, preset in PRESETS.items() if name != "edit"} <= ran
    assert {f"large:{n}" for n in (8, 10, 12, 14, 16, 20, 24, 28, 100)} <= ran
    assert {c.kind for c in contenders} >= {"large", "small", "mixture", "random", "center"}
    by_kind = {c.kind: c.schedule for c in contenders}
    assert by_kind["random"].region.signal == "random"
    assert by_kind["random"].segments == by_kind["center"].segments == PRESETS["hybridstitch"](28).segments


def test_a_preset_that_needs_more_steps_is_left_out_with_the_reason(facts):
    _, left_out = contenders_for(with_defaults(facts, schedule="large", steps=2), [])
    assert any("hybridstitch is left out" in told and "2 steps are too few" in told for told in left_out)


@pytest.mark.parametrize(
    ("missing", "left"),
    [
        (["small"], {"hybridstitch", "tstitch", "srdiffusion", "srdiffusion_adaptive", "flowblending", "small"}),
        (["light"], {"dbcache", "lightstitch"}),
    ],
)
def test_presets_of_a_network_that_is_not_there_are_left_out_with_the_reason(facts, missing, left):
    """Where small is not there, `gap` is not either, and the controls need a default schedule with a region."""
    without = with_defaults(msgspec.structs.replace(facts, **dict.fromkeys(missing)), schedule="large")
    contenders, left_out = contenders_for(without, [])
    told = {line.partition(" is left out: ")[0] for line in left_out if f"the bundle has no {missing[0]}" in line}
    assert told >= left
    assert not told & {c.name for c in contenders}
    assert ("random" in {c.kind for c in contenders}) == (missing != ["small"])
    assert {"taylorseer", "ras"} <= {c.name for c in contenders}


def test_a_schedule_asked_for_by_name_must_be_known(facts):
    with pytest.raises(ScheduleError, match="no preset 'hybridstich'"):
        contenders_for(facts, ["hybridstich"])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("large:14", "large"),
        ("large:14;solver=ab2", "solver"),
        ("large:8,large+held:6", "solver"),
        ("small:14", "small"),
        ("large:7,small:7", "mixture"),
        ("large:7,region:7", "mixture"),
        ("large:7,hybrid:7;signal=random", "random"),
        ("large:7,hybrid:7;signal=center", "center"),
    ],
)
def test_kind_is_read_from_what_runs(text, kind):
    assert Contender(text, schedule_from_text(text)).kind == kind


def test_prompts_are_spread_over_the_list_and_seeded_by_their_place():
    picked = spread([str(i) for i in range(11)], 3)
    assert [(p.seed, p.text) for p in picked] == [(0, "0"), (5, "5"), (10, "10")]
    assert len(spread(["a", "b"], 200)) == 2


def test_no_prompts_are_told(tmp_path):
    with pytest.raises(PromptError, match="0 prompts"):
        spread(["a"], 0)
    (tmp_path / "blank.txt").write_text("\n  \n")
    with pytest.raises(PromptError, match=r"blank\.txt holds no prompt"):
        lines_of(tmp_path / "blank.txt")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(PromptError, match="not text in UTF-8"):
        lines_of(tmp_path / "latin.txt")
