"""The boundary of a family: one that the repository does not know is built and drawn by its folder and a row alone."""

import numpy as np
import pytest
from rotary.family import ROW, make_rotary_pair

from hsexport.build.build import build
from hsexport.build.request import BuildRequest
from hsexport.build.verify.bundle import verify_bundle
from hsexport.checkpoints.documents import PairError
from hsexport.families.registry import FAMILIES
from hsexport.progress import Reporter
from hsruntime import Session
from hsruntime.bundle.reader import open_bundle
from hsruntime.schedule.schedule import ScheduleError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Built with the family registered, which is all that is done for it outside its own folder."""
    root = tmp_path_factory.mktemp("rotary")
    FAMILIES["rotary"] = ROW
    large, small = map(str, make_rotary_pair(root))
    yield build(BuildRequest(large, small, root / "bundle", root / "cache", steps=8), Reporter()).path
    del FAMILIES["rotary"]


@pytest.fixture(scope="module")
def alone(bundle):
    """Of large alone, out of the same store."""
    root = bundle.parent
    return build(BuildRequest(str(root / "large"), None, root / "alone", root / "cache", steps=8), Reporter()).path


def test_engines_and_the_strong_oracle_agree_with_torch(bundle):
    done = verify_bundle(open_bundle(bundle), Reporter())
    assert done.passed
    assert any("region" in comparison.reference for comparison in done.comparisons)


@pytest.mark.parametrize("schedule", ["hybridstitch", "regionstitch", "ras", "small", "large:2,hybrid+held:4,small:2"])
def test_it_draws_a_picture_with_every_method(bundle, schedule):
    with Session.open(bundle) as session:
        result = session.generate(["red apple", "a fox"], negative_prompt="green", schedule=schedule)
        assert result.images.shape == (2, 16, 16, 3)
        assert not np.array_equal(*result.images)
        larger = session.generate("red apple", width=24, height=20, schedule=schedule)
        assert larger.image.shape == (20, 24, 3)


def test_each_member_reads_the_text_by_its_own_encoder(bundle):
    facts = open_bundle(bundle).manifest.facts
    assert (facts.large.text, facts.small.text) == ("large", "small")
    with Session.open(bundle) as session:
        for schedule in ("large:3", "small:3"):
            one, other = (session.generate(prompt, schedule=schedule).image for prompt in ("red apple", "green fox"))
            assert not np.array_equal(one, other)


def test_a_region_of_everything_is_the_whole_model(bundle):
    with Session.open(bundle) as session:
        whole = session.generate("a fox", schedule="large:6").latents
        region = session.generate("a fox", schedule="large:2,region:4;signal=random,ratio=1.0,reselect=1").latents
    np.testing.assert_allclose(region, whole, atol=1e-4)


def test_large_alone_is_built_and_draws_what_it_draws_beside_small(bundle, alone):
    assert verify_bundle(open_bundle(alone), Reporter()).passed
    assert open_bundle(alone).manifest.facts.small is None
    assert set(open_bundle(alone).manifest.facts.text) == {"large"}
    with Session.open(bundle) as both, Session.open(alone) as one:
        for schedule in ("large:4", "large:2,region:2;signal=std", "large:2,skip:2"):
            asked = {"schedule": schedule, "negative_prompt": "green", "seed": 5}
            expected, found = (each.generate(["red apple", "a fox"], **asked).latents for each in (both, one))
            np.testing.assert_allclose(found, expected, atol=1e-5)
        with pytest.raises(ScheduleError, match="the bundle has no small"):
            one.generate("a fox", schedule="small:2")


def test_a_family_without_a_light_form_is_told(bundle):
    root = bundle.parent
    for small in (None, str(root / "small")):
        request = BuildRequest(str(root / "large"), small, root / "light", root / "cache", light=(1, 1))
        with pytest.raises(PairError, match=r"large .*is of a family without a light form.*leave --light out"):
            build(request, Reporter())
    assert not (root / "light").exists()
