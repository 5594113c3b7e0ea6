"""Pictures from the tiny bundle's real engines."""

import numpy as np
import pytest

from hsengines.errors import HSError
from hsruntime import Session
from hsruntime.loop.flow import seeded_noise
from hsruntime.loop.region import active_count
from hsruntime.text.tokenize import PromptCutWarning

HYBRID = "large:2,hybrid:2,small:1"
PROMPTS = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def session(tiny_bundle):
    with Session.open(tiny_bundle, hashes=False) as session:
        yield session


def assert_close(found, expected):
    """Equal but for one level of 255: other batches and other engines add up floats in another order."""
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


def assert_other(found, expected):
    assert np.abs(found.astype(int) - expected).max() > 1


def test_same_seed_gives_the_same_bytes(session):
    first = session.generate("red", seed=3, schedule=HYBRID)
    session.generate("green", seed=4, schedule=HYBRID)
    again = session.generate("red", seed=3, schedule=HYBRID)
    np.testing.assert_array_equal(again.images, first.images)
    np.testing.assert_array_equal(again.region, first.region)


def test_another_session_gives_the_same_bytes(session, tiny_bundle):
    with Session.open(tiny_bundle) as other:
        theirs = other.generate("red", seed=3, schedule=HYBRID).image
    np.testing.assert_array_equal(theirs, session.generate("red", seed=3, schedule=HYBRID).image)


@pytest.mark.parametrize("change", [{"seed": 4}, {"prompt": "green"}, {"schedule": "large:5"}, {"guidance_scale": 5}])
def test_everything_asked_for_reaches_the_picture(session, change):
    asked = {"prompt": "red", "seed": 3, "schedule": HYBRID}
    assert_other(session.generate(**asked | change).image, session.generate(**asked).image)


@pytest.mark.parametrize("signal", ["gap", "change", "random", "center"])
@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_batch_equals_its_pictures_one_by_one(session, signal, guidance):
    options = {"schedule": f"{HYBRID};signal={signal}", "guidance_scale": guidance}
    batch = session.generate(PROMPTS, seed=7, negative_prompt=["a", "b", "c"], **options)
    for i, prompt in enumerate(PROMPTS):
        single = session.generate(prompt, seed=7 + i, negative_prompt="abc"[i], **options)
        assert_close(batch.images[i], single.image)
        np.testing.assert_array_equal(batch.region[i], single.region[0])


@pytest.mark.parametrize(("width", "height"), [(24, 8), (8, 24), (20, 12), (24, 24), (8, 8)])
def test_other_sizes_work_within_the_profile(session, width, height):
    result = session.generate("red", width=width, height=height, schedule=HYBRID)
    assert result.image.shape == (height, width, 3)
    assert result.image.dtype == np.uint8
    assert result.grid == (height // 4, width // 4)
    assert result.region.shape == (1, height * width // 16)
    assert result.image.std() > 1


def test_each_picture_has_a_region_of_its_own_and_of_one_size(session):
    result = session.generate(PROMPTS, schedule=f"{HYBRID};ratio=0.4")
    assert result.region.sum(axis=1).tolist() == [active_count(0.4, 16)] * 3
    assert len({row.tobytes() for row in result.region}) > 1


def test_schedule_without_hybrid_has_no_region(session):
    assert session.generate("red", schedule="large:1,small:1").region is None


@pytest.mark.parametrize(("signal", "refresh"), [("gap", 0), ("gap", 1), ("change", 0), ("center", 0), ("center", 1)])
def test_region_of_the_whole_picture_is_large_alone(session, signal, refresh):
    hybrid = session.generate("red", schedule=f"large:2,hybrid:2;ratio=1,signal={signal},refresh={refresh}")
    assert_close(hybrid.image, session.generate("red", schedule="large:4").image)


def test_region_of_part_of_the_picture_is_neither_model_alone(session):
    hybrid = session.generate("red", schedule="large:2,hybrid:2;ratio=0.5").image
    assert_other(hybrid, session.generate("red", schedule="large:4").image)
    assert_other(hybrid, session.generate("red", schedule="large:2,small:2").image)


def test_larger_regions_lie_closer_to_large(session):
    large = session.generate(PROMPTS, schedule="large:6").images.astype(int)

    def distance(ratio):
        return np.abs(session.generate(PROMPTS, schedule=f"large:2,hybrid:4;ratio={ratio}").images - large).mean()

    assert distance(1) < distance(0.9) < distance(0.1)


def test_refresh_changes_the_picture(session):
    plain, refreshed = (session.generate("red", schedule=f"large:2,hybrid:4;refresh={n}") for n in (0, 1))
    assert_other(refreshed.image, plain.image)
    assert [s.mode for s in refreshed.segments] == ["large", "hybrid", "large", "hybrid"]


def test_negative_prompt_matters_under_guidance_alone(session):
    def picture(negative, guidance):
        asked = {"negative_prompt": negative, "guidance_scale": guidance, "schedule": HYBRID}
        return session.generate("red", **asked).image

    assert_other(picture("bad", 3.5), picture("", 3.5))
    np.testing.assert_array_equal(picture("bad", 1.0), picture("", 1.0))


def test_latents_replace_the_seeded_noise(session):
    latents = seeded_noise((4, 8, 8), [5])
    given = session.generate("red", latents=latents, schedule=HYBRID)
    np.testing.assert_array_equal(given.image, session.generate("red", seed=5, schedule=HYBRID).image)
    assert_other(given.image, session.generate("red", seed=0, schedule=HYBRID).image)


def test_latents_of_the_caller_stay_as_they_are(session):
    latents = seeded_noise((4, 8, 8), [5])
    before = latents.copy()
    session.generate("red", latents=latents, schedule=HYBRID)
    np.testing.assert_array_equal(latents, before)


def test_result_is_the_callers_own(session):
    first = session.generate("red", seed=1, schedule=HYBRID)
    kept = first.images.copy()
    session.generate("green", seed=2, schedule=HYBRID)
    np.testing.assert_array_equal(first.images, kept)


def test_default_schedule_runs_in_a_few_steps(session):
    result = session.generate("red", steps=3)
    assert [(s.mode, s.steps) for s in result.segments] == [("large", 1), ("hybrid", 1), ("small", 1)]


def test_interrupted_picture_leaves_no_trace_in_the_next(session):
    def stop(progress):
        if progress.step == 3:
            raise RuntimeError("enough")

    expected = session.generate("red", schedule=HYBRID).image
    with pytest.raises(RuntimeError, match="enough"):
        session.generate("green", seed=9, schedule=HYBRID, callback=stop)
    np.testing.assert_array_equal(session.generate("red", schedule=HYBRID).image, expected)


def test_long_prompt_is_cut_with_a_warning(session):
    with pytest.warns(PromptCutWarning) as caught:
        session.generate("abcdefghijklm", schedule="small:1")
    assert ["'klm'" in str(caught[0].message), "'ijklm'" in str(caught[1].message)] == [True, True]
    assert {w.filename for w in caught} == {__file__}


def test_unknown_option_is_a_type_error(session):
    with pytest.raises(TypeError, match="sede"):
        session.generate("red", sede=1)


def test_closed_session_is_told_in_one_line(tiny_bundle):
    session = Session.open(tiny_bundle, hashes=False)
    session.generate("red", schedule="small:1")
    session.close()
    session.close()
    with pytest.raises(HSError, match="the session is closed; open it again"):
        session.generate("red", schedule="small:1")
