"""The server as a Ray Serve application: two replicas behind one address."""

import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from served import GENERATIONS, pictures_of

from hsengines.errors import BackendUnavailable
from hsexport.deploy.ray.deployment import DeploymentOptions, _replica_app, app
from hsruntime import Session
from hsruntime.bundle.manifest import BundleError

SCHEDULE = "large:2,hybrid:2,small:1"
REPLICA = "ServeReplica:pictures:Pictures"


@pytest.fixture(scope="module")
def client(tiny_bundle):
    """Of two replicas on this machine's own Ray."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray import serve

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray.init(address="local", num_cpus=4, object_store_memory=128 * 2**20, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        serve.run(app(DeploymentOptions(bundle=tiny_bundle, replicas=2, queue=8)), name="pictures")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            yield client
    finally:
        serve.shutdown()
        ray.shutdown()


def replicas():
    found = subprocess.run(["pgrep", "-f", f"^ray::{REPLICA}"], capture_output=True, text=True)
    return {int(pid) for pid in found.stdout.split()}


def ask(client, seed):
    return client.post(GENERATIONS, json={"prompt": "red", "seed": seed, "schedule": SCHEDULE})


@pytest.mark.slow
def test_two_replicas_answer_and_a_killed_one_comes_back(client, tiny_bundle):
    before = replicas()
    assert len(before) == 2
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda seed: ask(client, seed), range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    with Session.open(tiny_bundle, hashes=False) as session:
        for seed, answer in enumerate(answers):
            expected = session.generate("red", seed=seed, schedule=SCHEDULE).image
            np.testing.assert_array_equal(pictures_of(answer.json())[0], expected)
    assert client.post(GENERATIONS, json={"prompt": "red", "size": "17x17"}).status_code == 400
    os.kill(min(before), signal.SIGKILL)
    end = time.monotonic() + 120
    while len(replicas() - {min(before)}) < 2:
        assert time.monotonic() < end
        time.sleep(0.5)
    assert ask(client, 1).status_code == 200


def test_a_bundle_that_is_not_there_is_told_before_ray_starts(tmp_path):
    with pytest.raises(BundleError, match="does not exist"):
        app(DeploymentOptions(bundle=tmp_path / "none"))


def test_a_replica_goes_by_the_names_that_it_is_given(tiny_bundle):
    options = DeploymentOptions(bundle=tiny_bundle, allowed_hosts="pictures.example, other.example")
    with TestClient(_replica_app(options)) as client:
        for host, status in (("pictures.example", 200), ("other.example:80", 200), ("evil.example", 403)):
            assert client.get("/v1/models", headers={"host": host}).status_code == status


def test_a_replica_opens_the_bundle_on_the_device_that_it_is_given(tiny_bundle):
    options = DeploymentOptions(bundle=tiny_bundle, device="NPU")
    with pytest.raises(BackendUnavailable, match="no device 'NPU' here, only CPU"), TestClient(_replica_app(options)):
        pass


def test_an_empty_key_is_refused(tiny_bundle):
    with pytest.raises(ValidationError, match="api_key"):
        DeploymentOptions(bundle=tiny_bundle, api_key="")
