from pathlib import Path

import numpy as np
import pytest

from hsengines.errors import ShapeError
from hsruntime.bundle.reader import open_bundle
from hsruntime.loop.flow import seeded_noise
from hsruntime.options import PictureOptions
from hsruntime.request import RequestError
from hsruntime.schedule.schedule import ScheduleError


@pytest.fixture(scope="module")
def manifest():
    """The golden bundle's: 64x64 pixels, sides from 32 to 128, multiples of 16, two prompts at once."""
    return open_bundle(Path(__file__).parent / "bundle" / "golden_bundle").manifest


@pytest.fixture
def complete(manifest):
    """A request on the golden bundle's manifest, for one prompt unless told otherwise."""

    def complete(prompt="red apple", size=(None, None), latents=None, **options):
        asked = PictureOptions(prompt=prompt, width=size[0], height=size[1], **options)
        return asked.completed(manifest, latents=latents)

    return complete


def test_defaults_are_the_bundles(complete, manifest):
    request = complete()
    assert request.size == (64, 64)
    assert request.guidance_scale == 4.5
    assert str(request.schedule).startswith("large:10,hybrid:10,small:8")
    np.testing.assert_array_equal(request.latents, seeded_noise((4, 8, 8), [0]))


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((144, 64), r"width 144 lies outside the bundle's 32\.\.128; build with another --min-size or --max-size"),
        ((64, 16), r"height 16 lies outside the bundle's 32\.\.128"),
        ((0, 64), r"width 0 lies outside the bundle's 32\.\.128"),
        ((64, -64), r"height -64 lies outside"),
        ((72, 64), r"width 72 is not a multiple of 16; try 64 or 80"),
        ((64, 65), r"height 65 is not a multiple of 16; try 64 or 80"),
    ],
)
def test_size_that_the_bundle_cannot_make_is_told(complete, size, words):
    with pytest.raises(ShapeError, match=words):
        complete(size=size)


def test_one_side_alone_leaves_the_other_at_its_default(complete):
    request = complete(size=(96, None))
    assert request.size == (96, 64)
    assert request.latents.shape == (1, 4, 8, 12)


@pytest.mark.parametrize(
    ("prompt", "error", "words"),
    [
        ([], RequestError, "the list of prompts is empty; give at least one prompt"),
        (["a", 5], RequestError, "a prompt is a int, expected str"),
        ("caf\udce9", RequestError, "a prompt is not text: .*surrogates not allowed; give it as UTF-8"),
        (["a"] * 3, ShapeError, "3 prompts at once, the bundle takes 2; build with a larger --max-batch"),
    ],
)
def test_prompts_that_cannot_be_are_told(complete, prompt, error, words):
    with pytest.raises(error, match=words) as told:
        complete(prompt)
    str(told.value).encode()


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"prompt_2": "caf\udce9"}, "a prompt_2 is not text"),
        ({"prompt_2": [5, "x"]}, "a prompt_2 is a int"),
        ({"prompt_3": "x"}, "there is a prompt_3, the bundle has 2 text encoders; leave it out"),
        ({"prompt_2": ["a"]}, "1 prompt_2s for 2 prompts; give one, or one for each"),
    ],
)
def test_other_encoders_prompts_that_cannot_be_are_told(complete, others, words):
    with pytest.raises(RequestError, match=words):
        complete(["x", "y"], **others)


def test_other_encoders_prompts_stand_beside_the_first(complete):
    found = complete(["x", "y"], prompt_2=["a", ""], negative_prompt="bad", guidance_scale=1).all_prompts
    assert found == [("x", "a"), ("y", "")]
    assert complete(["x", "y"], prompt_2="b").prompts == [("x", "b"), ("y", "b")]


@pytest.mark.parametrize(
    ("negative", "words"), [("\udcff", "a negative prompt is not text"), ([5], "a negative prompt is a int")]
)
def test_negative_prompts_that_cannot_be_are_told(complete, negative, words):
    with pytest.raises(RequestError, match=words):
        complete(negative_prompt=negative)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf"), 1e39, 10**400])
def test_guidance_that_is_not_finite_in_float32_is_told(complete, scale):
    with pytest.raises(RequestError, match=r"guidance_scale .* is not a finite number"):
        complete(guidance_scale=scale)


@pytest.mark.parametrize("options", [{"schedule": "large:1001"}, {"schedule": "hybridstitch", "steps": 1001}])
def test_more_steps_than_noise_levels_are_told(complete, options):
    words = "the schedule has 1001 steps, the bundle takes 1000; ask for fewer"
    with pytest.raises(ScheduleError, match=words):
        complete(**options)
    assert complete(schedule="large:1000").schedule.steps == 1000


@pytest.mark.parametrize("negative", [["a"], ["a", "b", "c"], []])
def test_number_of_negative_prompts_must_fit(complete, negative):
    with pytest.raises(
        RequestError, match=f"{len(negative)} negative prompts for 2 prompts; give one, or one for each"
    ):
        complete(["x", "y"], negative_prompt=negative)


def test_one_negative_prompt_serves_all_and_stands_first(complete):
    assert complete(["x", "y"], negative_prompt="bad").all_prompts == [("bad",), ("bad",), ("x",), ("y",)]
    assert complete(["x", "y"], negative_prompt=["b", "c"]).all_prompts == [("b",), ("c",), ("x",), ("y",)]


@pytest.mark.parametrize(("scale", "guided"), [(1.0, False), (0, False), (1.01, True)])
def test_guidance_up_to_one_is_off_as_in_diffusers(complete, scale, guided):
    request = complete("x", negative_prompt="bad", guidance_scale=scale)
    assert request.guided == guided
    assert request.all_prompts == ([("bad",), ("x",)] if guided else [("x",)])


@pytest.mark.parametrize("shape", [(1, 4, 8), (2, 4, 8, 8), (1, 16, 8, 8)])
def test_latents_of_another_shape_are_told(complete, shape):
    with pytest.raises(RequestError, match=r"latents are float32\(.*\), expected float32\(1, 4, 8, 8\)"):
        complete(latents=np.zeros(shape, np.float32))


def test_latents_of_another_dtype_are_told(complete):
    with pytest.raises(RequestError, match=r"latents are float64\(1, 4, 8, 8\), expected float32\(1, 4, 8, 8\)"):
        complete(latents=np.zeros((1, 4, 8, 8)))


def test_latents_bring_their_size(complete):
    latents = np.zeros((1, 4, 4, 16), np.float32)
    request = complete(latents=latents)
    assert request.size == (128, 32)
    assert request.latents is latents


def test_latents_are_bound_by_the_bundles_sizes(complete):
    with pytest.raises(ShapeError, match=r"width 144 lies outside"):
        complete(latents=np.zeros((1, 4, 8, 18), np.float32))


@pytest.mark.parametrize("latents", [None, np.zeros((1, 4, 8, 8), np.float32)])
def test_negative_seed_is_told(complete, latents):
    with pytest.raises(RequestError, match="seed -1 is negative; seeds start at 0"):
        complete(seed=-1, latents=latents)


def test_steps_that_contradict_the_schedule_are_told(complete):
    with pytest.raises(ScheduleError, match="the schedule has 28 steps, 20 were asked for"):
        complete(steps=20)


def test_steps_scale_a_preset(complete):
    assert complete(steps=20, schedule="hybridstitch").schedule.steps == 20
