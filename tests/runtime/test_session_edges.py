"""What callers do to a session: threads, callbacks, numbers of every kind, numbers that are none, full disks."""

import threading

import numpy as np
import pytest
from PIL import Image
from small_disk import small_disk

from hsengines.errors import HSError
from hsruntime import Session
from hsruntime.bundle.manifest import BundleError
from hsruntime.picture.decode import finite
from hsruntime.picture.picture import save_png
from hsruntime.request import RequestError


@pytest.fixture(scope="module")
def session(tiny_bundle):
    with Session.open(tiny_bundle) as session:
        yield session


def test_threads_take_turns_and_get_the_pictures_of_one_after_the_other(session):
    prompts = [f"picture {number}" for number in range(8)]
    alone = [session.generate(prompt, seed=i, steps=3).image for i, prompt in enumerate(prompts)]
    found = [None] * len(prompts)

    def draw(i):
        found[i] = session.generate(prompts[i], seed=i, steps=3).image

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, image in zip(alone, found, strict=True):
        np.testing.assert_array_equal(image, expected)


def test_call_from_a_callback_is_refused_and_the_session_goes_on(session):
    def callback(_):
        session.generate("red", steps=3)

    with pytest.raises(HSError, match="called from its own callback"):
        session.generate("red", steps=3, callback=callback)
    session.generate("red", steps=3)


def test_numpy_s_numbers_are_numbers(session):
    expected = session.generate("red", seed=7, steps=3, guidance_scale=2.5, width=16, height=8).image
    given = {"seed": np.int64(7), "steps": np.int32(3), "guidance_scale": np.float32(2.5), "width": np.uint16(16)}
    np.testing.assert_array_equal(session.generate("red", **given, height=np.int8(8)).image, expected)
    assert session.generate("red", seed=np.array([7]), steps=3).seeds == (7,)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"seed": 1.5}, "a seed is a float"),
        ({"seed": "1"}, "a seed is a str"),
        ({"steps": 2.0}, "steps is a float"),
        ({"width": "16"}, "a side is a str"),
        ({"guidance_scale": "x"}, "guidance_scale is a str"),
        ({"guidance_scale": 1e30}, "guidance_scale 1e.30 lies outside"),
    ],
)
def test_what_is_no_such_number_is_told(session, given, words):
    with pytest.raises(RequestError, match=words):
        session.generate("red", **given)


def test_none_is_no_negative_prompt_and_a_seed_by_chance(session):
    first, second = (session.generate("red", negative_prompt=None, seed=None, steps=3) for _ in range(2))
    assert first.seeds != second.seeds
    np.testing.assert_array_equal(session.generate("red", seed=first.seeds[0], steps=3).image, first.image)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e20, -1e5])
def test_latents_that_are_no_latents_are_refused(session, number):
    latents = np.zeros(session.generate("red", steps=3).latents.shape, np.float32)
    latents[0, 0, 0, 0] = number
    with pytest.raises(RequestError, match="latents hold numbers beyond 10000"):
        session.generate("red", latents=latents)


def test_pictures_that_are_no_numbers_are_an_error():
    with pytest.raises(HSError, match="the decoded pictures hold numbers that are not finite"):
        finite("the decoded pictures", np.array([0.5, np.nan]))


def test_pinned_identity_opens_that_bundle_alone(tiny_bundle, session):
    with Session.open(tiny_bundle, identity=session.manifest.identity):
        pass
    with pytest.raises(BundleError, match="has identity"):
        Session.open(tiny_bundle, identity="0" * 64)


def test_full_disk_leaves_the_old_picture_and_names_the_file(tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (600, 600, 3), np.uint8)
    with small_disk(tmp_path / "disk", 512 * 1024) as disk:
        save_png(disk / "a.png", noise[:8, :8], {})
        old = (disk / "a.png").read_bytes()
        with pytest.raises(HSError, match=r"a\.png' could not be written: No space left"):
            save_png(disk / "a.png", noise, {})
        assert (disk / "a.png").read_bytes() == old
        assert [file.name for file in disk.iterdir() if file.is_file()] == ["a.png"]
        assert Image.open(disk / "a.png").size == (8, 8)
