"""Bundles of large alone, and of large with a light form of itself: built, verified, shown, planned and drawn with."""

import json
import shutil

import numpy as np
import pytest
from one_line import told_in_one_line

from hsexport.build.build import build
from hsexport.build.recipe import recipe_for
from hsexport.build.request import BuildRequest, RecipeError
from hsexport.build.verify.bundle import verify_bundle
from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.weights.adapter import AdapterRequest
from hsexport.progress import Reporter
from hsruntime import Session
from hsruntime.bundle.reader import open_bundle
from hsruntime.schedule.presets import PRESETS
from hsruntime.schedule.schedule import MODES, ScheduleError

PROMPTS = ["red", "fox"]
ALONE = [
    "large:3",
    "large:2,region:2;signal=std",
    "large:2,region+held:2;signal=change",
    "large:2,skip:2,large:1",
    "large:3,skip:2;order=2",
    "large:3;guidance=0.3/0.9",
    "taylorseer",
    "ras",
]
WITH_LIGHT = [
    "large:2,light:2,large:1",
    "large:1,light:1",
    "large:2,light+off:2",
    "large:2,light+held:2",
    "large+off:2,light+off:2",
    "large:2,refined:2",
    "large:2,refined:2;signal=std,text=cached",
    "large:2,refined+off:2;signal=change",
    "large:2,light:1,skip:1,large:1,refined:2;signal=std",
    "dbcache",
    "lightstitch",
]
BUNDLES = {"none": None, "light": (1, 1)}


@pytest.fixture(scope="module")
def bundles(tiny_pair_dirs, tiny_cache, tmp_path_factory):
    """By what stands in small's place; what the tiny bundle has as well comes out of its store."""
    root = tmp_path_factory.mktemp("without_small")
    return {
        kind: build(
            BuildRequest(str(tiny_pair_dirs[0]), None, root / kind, tiny_cache, light=light, steps=6), Reporter()
        ).path
        for kind, light in BUNDLES.items()
    }


@pytest.fixture(scope="module")
def sessions(bundles, tiny_bundle):
    """One of each bundle, and of the whole pair's."""
    opened = {kind: Session.open(path) for kind, path in (bundles | {"pair": tiny_bundle}).items()}
    yield opened
    for session in opened.values():
        session.close()


@pytest.mark.parametrize(
    ("kind", "schedule"), [*(("none", s) for s in ALONE), *(("light", s) for s in [*ALONE, *WITH_LIGHT])]
)
@pytest.mark.parametrize("prompt", ["fox", PROMPTS], ids=["one", "two"])
@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_pictures_are_those_of_the_whole_pair(sessions, kind, schedule, prompt, guidance):
    asked = {"schedule": schedule, "guidance_scale": guidance, "negative_prompt": "green", "seed": 3}
    asked |= {"steps": 6} if schedule in PRESETS else {}
    found, expected = (sessions[name].generate(prompt, **asked) for name in (kind, "pair"))
    assert len(found.images) == (1 if prompt == "fox" else 2)
    assert np.isfinite(found.latents).all()
    np.testing.assert_allclose(found.latents, expected.latents, atol=1e-4)  # large answers less where light is not


@pytest.mark.parametrize("kind", BUNDLES)
def test_engines_and_the_strong_oracle_agree_with_torch(bundles, kind):
    done = verify_bundle(open_bundle(bundles[kind]), Reporter())
    assert done.passed
    assert any("region" in comparison.reference for comparison in done.comparisons)
    engines = open_bundle(bundles[kind]).manifest.engines
    assert ("light" in engines, "small" in engines, "condition_small" in engines) == (kind == "light", False, False)


@pytest.mark.parametrize("kind", BUNDLES)
def test_inspect_tells_who_is_there(hsexport, bundles, kind):
    shown = hsexport("inspect", bundles[kind])
    assert shown.returncode == 0, shown.stderr
    heads = [line.split()[0] for line in shown.stdout.splitlines() if line.strip()]
    assert "large" in heads
    assert "light" not in heads or "the first 1 and the last 1 of large's 3 blocks" in shown.stdout
    facts = json.loads(hsexport("inspect", bundles[kind], "--json").stdout)["facts"]
    assert facts["small"] is None
    assert (facts["light"] or {}).get("outer") == (None if kind == "none" else [1, 1])
    assert facts["defaults"]["schedule"] == ("large" if kind == "none" else "lightstitch")
    steps = hsexport("inspect", bundles[kind], "--steps")
    assert steps.returncode == 0, steps.stderr


@pytest.mark.parametrize(("kind", "options"), [("none", []), ("light", ["--light", "1+1"])])
def test_plan_counts_who_is_there(hsexport, tiny_pair_dirs, kind, options):
    asked = ["plan", "--large", tiny_pair_dirs[0], "--small", kind, *options, "--gpu", "l4"]
    done = hsexport(*asked, "--json")
    assert done.returncode == 0, done.stderr
    work = json.loads(done.stdout)["work"]
    assert work["small"] is None
    assert (work["light"] is None) == (kind == "none")
    if work["light"]:
        assert work["light"]["flops"]["total"] < work["large"]["flops"]["total"]
    shown = hsexport(*asked)
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("kind", BUNDLES)
@pytest.mark.parametrize("schedule", ["small:2", "hybridstitch", "large:2,hybrid:2", "large:2,region:2;signal=gap"])
def test_schedule_of_small_is_refused_in_one_line(hsexport, bundles, tmp_path, kind, schedule):
    done = hsexport("run", bundles[kind], "--prompt", "fox", "--schedule", schedule, "--out", tmp_path / "fox.png")
    told_in_one_line(done, "the bundle has no small")


def test_schedule_of_light_is_refused_where_there_is_none(hsexport, bundles, tmp_path):
    done = hsexport("run", bundles["none"], "--prompt", "fox", "--schedule", "dbcache", "--out", tmp_path / "fox.png")
    told_in_one_line(done, "the bundle has no light", "--light 2+1")


@pytest.mark.slow
def test_the_command_builds_what_the_request_does(hsexport, bundles, tiny_pair_dirs, tiny_cache, tmp_path):
    asked = ["--large", tiny_pair_dirs[0], "--small", "light", "--light", "1+1", "--steps", 6]
    done = hsexport("build", *asked, "--out", tmp_path / "b", "--cache", tiny_cache)
    assert done.returncode == 0, done.stderr
    assert open_bundle(tmp_path / "b").manifest.files == open_bundle(bundles["light"]).manifest.files
    verified = hsexport("verify", tmp_path / "b", "--large", tiny_pair_dirs[0])
    assert verified.returncode == 0, verified.stderr


def runs_or_is_refused(session, **asked):
    """Whether it drew a picture, or was refused in one line."""
    try:
        result = session.generate("fox", **asked)
    except ScheduleError as err:
        assert err.message and "\n" not in err.message, asked
        return False
    assert np.isfinite(result.latents).all(), asked
    return True


@pytest.mark.parametrize("kind", ["pair", *BUNDLES])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_shortest_schedules_run_or_are_refused(sessions, kind, steps):
    """Of every mode and preset; large alone always runs."""
    ran = {preset: runs_or_is_refused(sessions[kind], schedule=preset, steps=steps) for preset in PRESETS}
    for mode in MODES:
        for before in ("", "large:1,", "large:2,", "small:1,"):
            for guidance in ("", "+off", "+held"):
                written = f"{before}{mode}{guidance}:{steps}"
                ran[written] = runs_or_is_refused(sessions[kind], schedule=written)
    assert {"large", "taylorseer", "fewer_steps", f"large:{steps}", f"large:1,skip:{steps}"} <= {
        schedule for schedule, did in ran.items() if did
    }
    assert ran[f"large:1,light:{steps}"] == (kind != "none")
    assert ran[f"small:{steps}"] == (kind == "pair")


@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("size", [(16, 16), (24, 8)], ids=["shared", "copied"])
def test_light_without_guidance_is_lights_row_of_the_prompt(bundles, prompts, size):
    """Its rows of what the middle blocks added are the prompts', whether or not they begin where engines take them."""
    asked = {"negative_prompt": "green", "seed": 3, "width": size[0], "height": size[1], "guidance_scale": 3.5}
    found = []
    with Session.open(bundles["light"]) as session:
        for light in ("light", "light+off"):
            session.generate(PROMPTS[:prompts], schedule=f"large:2,{light}:1", **asked)
            (executor,) = session._executors._kept.values()
            rows = 2 * prompts if light == "light" else prompts
            found.append(executor.loop._buffers.tensor("velocity", rows).read())
    assert found[0].shape[0] == 2 * prompts
    np.testing.assert_allclose(found[1], found[0][prompts:], atol=1e-5)
    assert np.abs(found[1] - found[0][:prompts]).max() > 1e-2


def test_lora_for_a_model_that_is_left_out_is_refused(tiny_pair_dirs, tmp_path):
    lora = (AdapterRequest("small", tmp_path / "style.safetensors", 1.0),)
    request = BuildRequest(str(tiny_pair_dirs[0]), None, tmp_path / "b", tmp_path / "c", lora=lora)
    with pytest.raises(RecipeError, match=r"--lora small=.*style.safetensors is for a model that is left out"):
        recipe_for(request)


@pytest.mark.parametrize("light", [(9, 9), (2, 1)])
def test_light_form_of_all_blocks_is_refused(tiny_pair_dirs, tmp_path, light):
    request = BuildRequest(str(tiny_pair_dirs[0]), None, tmp_path / "b", tmp_path / "c", light=light)
    with pytest.raises(PairError, match=r"--light \d\+\d leaves out none of the 3 blocks of large .*keep fewer"):
        recipe_for(request)


def test_large_alone_must_be_whole(hsexport, tiny_pair_dirs, tmp_path):
    transformer = tmp_path / "large"
    shutil.copytree(tiny_pair_dirs[0] / "transformer", transformer / "transformer")
    done = hsexport("plan", "--large", transformer, "--small", "none")
    told_in_one_line(done, "alone has no vae", "it must be a whole pipeline")
