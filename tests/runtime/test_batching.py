"""Requests that share a batch give what they give alone."""

import numpy as np
import pytest

from hsruntime import Session
from hsruntime.batching import kind_of, merged, parted
from hsruntime.options import PictureOptions

HYBRID = "large:2,hybrid:2,small:1"


@pytest.fixture(scope="module")
def session(tiny_bundle):
    with Session.open(tiny_bundle, hashes=False) as session:
        yield session


@pytest.mark.parametrize("signal", ["gap", "random"])
def test_pictures_of_a_merged_request_are_those_of_its_parts(session, signal):
    schedule = f"{HYBRID};signal={signal}"
    asked = [(["red", "green"], 5), (["blue"], 2)]
    requests = [PictureOptions(prompt=p, seed=s, schedule=schedule).completed(session.manifest) for p, s in asked]
    together = parted(session.run(merged(requests)), requests)
    for mine, request in zip(together, requests, strict=True):
        alone = session.run(request)
        assert mine.images.shape == alone.images.shape
        assert np.abs(mine.images.astype(int) - alone.images).max() <= 1
        np.testing.assert_array_equal(mine.region, alone.region)


@pytest.mark.parametrize("other", [{"width": 8}, {"guidance_scale": 2.0}, {"schedule": "large:5"}])
def test_what_shapes_the_loop_parts_kinds(session, other):
    plain = {"width": 16, "guidance_scale": 3.0, "schedule": HYBRID}

    def completed(**options):
        return PictureOptions(**options).completed(session.manifest)

    one, two = (completed(prompt="a", **(plain | more)) for more in ({"seed": 4}, other))
    assert kind_of(one) == kind_of(completed(prompt="b", **plain))
    assert kind_of(one) != kind_of(two)


def test_a_schedule_that_ends_when_the_batch_has_settled_runs_alone(session):
    assert kind_of(PictureOptions(prompt="a", schedule="srdiffusion_adaptive").completed(session.manifest)) is None
