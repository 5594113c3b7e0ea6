"""Requests that share a batch give what they give alone."""

import numpy as np
import pytest

from hsruntime import Session
from hsruntime.batching import kind_of, merged, parted
from hsruntime.request import complete_request

HYBRID = "large:2,hybrid:2,small:1"


@pytest.fixture(scope="module")
def session(tiny_bundle):
    with Session.open(tiny_bundle, hashes=False) as session:
        yield session


@pytest.mark.parametrize("signal", ["gap", "random"])
def test_pictures_of_a_merged_request_are_those_of_its_parts(session, signal):
    schedule = f"{HYBRID};signal={signal}"
    asked = [(["red", "green"], 5), (["blue"], 2)]
    requests = [complete_request(session.manifest, p, seed=s, schedule=schedule) for p, s in asked]
    together = parted(session.run(merged(requests)), requests)
    for mine, request in zip(together, requests, strict=True):
        alone = session.run(request)
        assert mine.images.shape == alone.images.shape
        assert np.abs(mine.images.astype(int) - alone.images).max() <= 1
        np.testing.assert_array_equal(mine.region, alone.region)


@pytest.mark.parametrize("other", [{"size": (8, 16)}, {"guidance_scale": 2.0}, {"schedule": "large:5"}])
def test_what_shapes_the_loop_parts_kinds(session, other):
    plain = {"size": (16, 16), "guidance_scale": 3.0, "schedule": HYBRID}
    one, two = (complete_request(session.manifest, "a", **(plain | more)) for more in ({"seed": 4}, other))
    assert kind_of(one) == kind_of(complete_request(session.manifest, "b", **plain))
    assert kind_of(one) != kind_of(two)


def test_a_schedule_that_ends_when_the_batch_has_settled_runs_alone(session):
    assert kind_of(complete_request(session.manifest, "a", schedule="srdiffusion_adaptive")) is None
