"""Pictures that begin from others, by the tiny bundle's real engines."""

import numpy as np
import pytest
from PIL import Image

from hsengines.errors import HSError, ShapeError
from hsruntime import Session
from hsruntime.batching import batches, kind_of
from hsruntime.options import PictureOptions
from hsruntime.picture.original import file_bytes
from hsruntime.request import RequestError
from hsruntime.schedule.schedule import ScheduleError

SIZE = (24, 16)
PICTURE = np.asarray(
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (4, 5, 3), np.uint8)).resize(
        SIZE, Image.Resampling.BICUBIC
    )
)
MASK = np.zeros(SIZE[::-1], np.uint8)
MASK[4:10, 8:20] = 255
INSIDE = MASK > 0


@pytest.fixture(scope="module")
def session(tiny_bundle):
    with Session.open(tiny_bundle, hashes=False) as session:
        yield session


def differs(found, expected):
    return np.abs(found.astype(int) - expected).max()


def test_full_strength_is_a_picture_from_noise(session):
    """At noise level 1 nothing is left of the original."""
    begun = session.generate("red", image=PICTURE, strength=1, schedule="large:4")
    plain = session.generate("red", width=24, height=16, schedule="large:4")
    assert np.array_equal(begun.images, plain.images)
    assert begun.schedule == plain.schedule


def test_less_strength_stays_nearer(session):
    found = [session.generate("red", image=PICTURE, strength=s, schedule="large:10").image for s in (0.1, 0.5, 0.9)]
    near, middle, far = (np.abs(image.astype(int) - PICTURE).mean() for image in found)
    assert near < middle < far
    assert found[0].shape == PICTURE.shape


@pytest.mark.parametrize(
    ("schedule", "strength", "ran"),
    [
        ("large:10", 0.6, "large:6;start=4"),
        ("large:10", None, "large:6;start=4"),
        ("large:2,hybrid:5,small:3", 0.6, "large:1,hybrid:2,small:3;start=4,signal=gap,ratio=0.3"),
        ("large:2,hybrid:5,small:3", 0.3, "small:3;start=7"),
        ("large:2,hybrid:5,small:3", 0.9, "large:1,hybrid:5,small:3;start=1,signal=gap,ratio=0.3"),
        ("large:2,skip:1,large:1,skip:1,large:5", 0.6, "large:1,large:5;start=4"),
        ("large:3,light:7", 0.5, "large:1,light:4;start=5"),
        ("small:2,large:8", 1.0, "small:2,large:8"),
        ("large:4;sigmas=1/0.8/0.5/0.2", 0.5, "large:2;sigmas=0.5/0.2"),
        ("large:6;start=4", None, "large:6;start=4"),
    ],
)
def test_what_lies_before_the_strength_falls_away_and_is_told(session, schedule, strength, ran):
    result = session.generate("red", image=PICTURE, strength=strength, schedule=schedule)
    assert str(result.schedule) == ran
    assert sum(segment.steps for segment in result.segments) == result.schedule.steps


def test_every_preset_starts_in_the_middle(session):
    from hsruntime.schedule.presets import PRESETS

    for name in PRESETS:
        for strength in (0.05, 0.3, 0.6, 0.95):
            result = session.generate("red", image=PICTURE, mask=MASK, strength=strength, schedule=name, steps=20)
            assert result.schedule.start + result.schedule.steps == (10 if name == "fewer_steps" else 20)
            assert np.array_equal(result.image[~INSIDE], PICTURE[~INSIDE]), name


def test_outside_the_mask_every_pixel_stays(session):
    result = session.generate(["red", "blue"], image=PICTURE, mask=MASK, strength=0.8, schedule="large:6")
    assert np.array_equal(result.images[:, ~INSIDE], np.stack([PICTURE[~INSIDE]] * 2))
    assert differs(result.images[0][INSIDE], PICTURE[INSIDE]) > 5
    assert differs(result.images[0], result.images[1]) > 1


def test_latents_outside_the_mask_end_as_the_original_s(session):
    whole = session.generate("red", image=PICTURE, mask=MASK, strength=0.6, schedule="large:6")
    with_mask = whole.latents[0]
    again = session.generate("blue", image=PICTURE, mask=MASK, strength=0.6, seed=8, schedule="large:6").latents[0]
    outside = ~INSIDE.reshape(8, 2, 12, 2).any(axis=(1, 3))
    assert np.array_equal(with_mask[:, outside], again[:, outside])
    assert differs(with_mask[:, ~outside], again[:, ~outside]) > 0


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_edit_of_everything_is_large_on_everything(session, guidance):
    """The region is the whole picture, and its keys and values are all new."""
    everything = np.full_like(MASK, 255)
    asked = {"image": PICTURE, "mask": everything, "strength": 0.7, "guidance_scale": guidance}
    with pytest.warns(UserWarning, match="the mask marks the whole picture"):
        edit = session.generate("red", schedule="large:1,region:9;signal=mask", **asked)
        large = session.generate("red", schedule="large:10", **asked)
    assert edit.region.all()
    assert differs(edit.images, large.images) <= 1


def test_edit_runs_on_the_mask_s_tokens(session):
    result = session.generate("red", image=PICTURE, mask=MASK, strength=0.7, schedule="edit", steps=10)
    tokens = result.region.reshape(result.grid)
    marked = INSIDE.reshape(4, 4, 6, 4).any(axis=(1, 3))
    assert np.array_equal(tokens, marked)
    assert np.array_equal(result.image[~INSIDE], PICTURE[~INSIDE])
    assert str(result.schedule) == "large:1,region+held:6;start=3,signal=mask,refresh=2,text=cached"


def test_a_region_by_hand_takes_the_schedule_s_place(session):
    mask = np.zeros((16, 16), np.uint8)
    mask[:8, :8] = 255
    result = session.generate("red", region_mask=mask, schedule="large:2,hybrid:3,small:1;ratio=0.9")
    assert result.region.reshape(result.grid).tolist() == [[True, True, False, False]] * 2 + [[False] * 4] * 2
    assert result.schedule.region.signal == "mask"
    with pytest.raises(ScheduleError, match="a region is marked, and large:4 refines none"):
        session.generate("red", region_mask=mask, schedule="large:4")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"strength": 0.5}, "there is a strength, and no picture to begin from"),
        ({"mask": MASK}, "there is a mask, and no picture that it lies on"),
        ({"image": PICTURE, "strength": 0}, r"strength 0 lies outside 0\.\.1"),
        ({"image": PICTURE, "strength": 1.5}, r"strength 1\.5 lies outside 0\.\.1"),
        ({"image": PICTURE, "strength": float("nan")}, r"strength nan lies outside 0\.\.1"),
        ({"image": PICTURE, "strength": 1e-20, "schedule": "large:10"}, "strength 1e-20 of 10 steps leaves none"),
        ({"image": PICTURE, "strength": 0.5, "schedule": "large:6;start=4"}, "states a start, and there is a strength"),
        ({"image": b"no picture"}, "the image is no picture that can be read"),
        ({"image": PICTURE, "mask": np.zeros_like(MASK)}, "the mask marks nothing"),
        ({"image": PICTURE, "mask": MASK, "mask_blur": -1}, "mask_blur -1 lies outside"),
        ({"schedule": "edit"}, "signal 'mask' takes the region that is marked, and none is"),
        ({"schedule": "large:6;start=4"}, "begins from a picture, and there is none"),
        ({"image": PICTURE, "width": 1024}, "width 1024 lies outside"),
    ],
)
def test_what_cannot_be_begun_is_refused_in_a_line(session, asked, words):
    with pytest.raises(HSError, match=words) as caught:
        session.generate("red", **asked)
    assert isinstance(caught.value, RequestError | ScheduleError | ShapeError)
    assert "\n" not in str(caught.value)


def test_a_bundle_without_an_encoder_says_so(tiny_bundle):
    from msgspec import structs

    from hsruntime.bundle.reader import open_bundle

    manifest = open_bundle(tiny_bundle, hashes=False).manifest
    without = structs.replace(manifest, engines={n: e for n, e in manifest.engines.items() if n != "vae_encoder"})
    with pytest.raises(RequestError, match="the bundle has no network that takes pictures in; build it again"):
        PictureOptions(prompt="red", image=file_bytes("image", PICTURE)).completed(without)


@pytest.mark.parametrize("options", [{"text_on_demand": True}, {"vae_tile": 8}, {"vae_tile": 24}])
def test_on_small_machines_too(tiny_bundle, session, options):
    asked = {"image": PICTURE, "mask": MASK, "strength": 0.8, "schedule": "edit", "steps": 5}
    whole = session.generate("red", **asked).image
    with Session.open(tiny_bundle, **options) as small:
        found = small.generate("red", **asked).image
    assert np.array_equal(found[~INSIDE], PICTURE[~INSIDE])
    assert options == {"vae_tile": 8} or differs(found, whole) <= 1


def test_the_encoder_is_opened_for_the_first_picture_that_begins_from_another(tiny_bundle):
    with Session.open(tiny_bundle) as session:
        session.generate("red", schedule="large:1")
        assert "vae_encoder" not in session._engines
        session.generate("red", image=PICTURE, schedule="large:2")
        assert "vae_encoder" in session._engines


def test_only_the_same_picture_and_mask_share_a_batch(session):
    def request(**asked):
        files = {n: file_bytes(n, v) for n, v in asked.items() if isinstance(v, np.ndarray)}
        return PictureOptions(**{"prompt": "red", "schedule": "large:4", **asked, **files}).completed(session.manifest)

    other = PICTURE[::-1].copy()
    asked = [
        {"image": PICTURE}, {"image": other}, {"image": PICTURE, "mask": MASK}, {"image": PICTURE, "strength": 0.9},
        {"image": PICTURE, "mask": MASK, "mask_blur": 2}, {"width": 24, "height": 16},
        {"image": PICTURE, "mask": MASK, "schedule": "edit", "steps": 5},
        {"image": PICTURE, "mask": MASK, "schedule": "edit", "steps": 5, "region_mask": MASK.T.copy()},
    ]  # fmt: skip
    requests = [request(**each) for each in asked]
    assert len({kind_of(each) for each in requests}) == len(asked)
    first, *_ = batches([*requests, request(image=PICTURE)], lambda each: each, 4)
    assert len(first) == 2


def test_a_batch_equals_its_pictures_one_by_one(session):
    asked = {"image": PICTURE, "mask": MASK, "strength": 0.8, "schedule": "large:1,region:5;signal=mask,refresh=2"}
    together = session.generate(["red", "blue"], seed=4, **asked)
    for i, prompt in enumerate(("red", "blue")):
        assert differs(session.generate(prompt, seed=4 + i, **asked).image, together.images[i]) <= 1
