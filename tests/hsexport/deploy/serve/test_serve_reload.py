"""A bundle that is replaced while it is served."""

import shutil
import time

import msgspec
import pytest
from sealed import sealed
from served import serving

from hsruntime.bundle.reader import MANIFEST_NAME


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    """A copy that may be harmed."""
    return shutil.copytree(tiny_bundle, tmp_path / "served")


def with_other_steps(bundle, steps):
    """The same bundle with another default, as `hsexport tune` would leave it."""
    manifest = msgspec.json.decode((bundle / MANIFEST_NAME).read_bytes())
    manifest["facts"]["defaults"]["steps"] = steps
    (bundle / MANIFEST_NAME).write_bytes(sealed(msgspec.json.encode(manifest)))


def steps_of(server):
    return server.client.get("/v1/bundle").json()["steps"]


def until(holds, seconds=20):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_bundle_put_in_its_place_draws_the_next_pictures(bundle, tmp_path):
    other = shutil.copytree(bundle, tmp_path / "other")
    with_other_steps(other, 5)
    with serving(bundle, "--watch", 0.1) as server:
        assert steps_of(server) != 5
        bundle.rename(tmp_path / "old")
        other.rename(bundle)
        until(lambda: steps_of(server) == 5)
        assert server.ask(schedule="large").json()["hsexport"]["schedule"] == "large:5"
        assert server.metric('hsexport_bundle_reloads_total{outcome="taken up"}') == 1


def test_a_half_copied_bundle_is_left_alone_until_it_is_whole(bundle, tmp_path):
    with serving(bundle, "--watch", 0.1) as server:
        engine = next(bundle.glob("engines/large*"), None) or next(bundle.rglob("large*"))
        whole = engine.read_bytes()
        with_other_steps(bundle, 5)
        # As a copy under way leaves it: another file by the same name, not yet at its length.
        engine.unlink()
        engine.write_bytes(whole[: len(whole) // 2])
        until(lambda: any("cannot be used" in line for line in server.log))
        assert steps_of(server) != 5 and server.ask(schedule="large:2").status_code == 200
        engine.unlink()
        engine.write_bytes(whole)
        until(lambda: steps_of(server) == 5)
        assert server.ask(schedule="large:2").status_code == 200


def test_orders_that_waited_for_the_old_bundle_are_drawn_by_the_new_one(bundle):
    from concurrent.futures import ThreadPoolExecutor

    with serving(bundle, "--watch", 0.1) as server, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(server.ask, "red", seed=seed, schedule="large:400") for seed in range(4)]
        until(lambda: server.metric("hsexport_queue_length") >= 2)
        with_other_steps(bundle, 5)
        assert [answer.result().status_code for answer in asked] == [200] * 4
        until(lambda: steps_of(server) == 5)
