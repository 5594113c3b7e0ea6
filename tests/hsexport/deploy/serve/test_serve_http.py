"""The API over a real socket, from a real bundle."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from served import GENERATIONS, array_of, pictures_of, serving, start

from hsruntime import Session

HYBRID = "large:2,hybrid:2,small:1"


@pytest.fixture(scope="module")
def server(tiny_bundle):
    options = ("--max-body-kb", 8, "--body-timeout", 1, "--max-batch", 4, "--gather-ms", 50)
    with serving(tiny_bundle, *options) as server:
        yield server


@pytest.fixture(scope="module")
def session(tiny_bundle):
    with Session.open(tiny_bundle, hashes=False) as session:
        yield session


def told(response, status, *words):
    """The status, one line in OpenAI's shape, and the words in it."""
    assert response.status_code == status, response.text
    message = response.json()["error"]["message"]
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def test_picture_is_the_sessions(server, session):
    answer = server.ask("red", seed=3, schedule=HYBRID, region=True).json()
    expected = session.generate("red", seed=3, schedule=HYBRID)
    np.testing.assert_array_equal(pictures_of(answer)[0], expected.image)
    assert answer["data"][0]["seed"] == 3 and answer["size"] == "16x16"
    assert answer["hsexport"]["schedule"] == str(expected.schedule)
    assert [s["mode"] for s in answer["hsexport"]["segments"]] == ["large", "hybrid", "small"]
    assert array_of(answer["data"][0]["region_b64_json"]).shape == (16, 16, 3)


def test_n_pictures_have_seeds_in_a_row_and_one_batch(server, session):
    answer = server.ask("red", n=4, seed=7, schedule=HYBRID).json()
    assert [entry["seed"] for entry in answer["data"]] == [7, 8, 9, 10]
    assert answer["hsexport"]["batch"] == 4
    for i, picture in enumerate(pictures_of(answer)):
        alone = session.generate("red", seed=7 + i, schedule=HYBRID).image
        assert np.abs(picture.astype(int) - alone).max() <= 1  # another batch adds up floats in another order


def test_without_a_seed_the_answer_says_which_was_drawn(server):
    first = server.ask("red").json()
    seed = first["data"][0]["seed"]
    again = server.ask("red", seed=seed).json()
    np.testing.assert_array_equal(pictures_of(first)[0], pictures_of(again)[0])
    assert server.ask("red").json()["data"][0]["seed"] != seed


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_output_format_is_what_comes(server, form):
    answer = server.ask("red", output_format=form).json()
    assert answer["output_format"] == form and pictures_of(answer)[0].shape == (16, 16, 3)


def test_callers_at_once_share_batches_and_get_their_own(server, session):
    before = server.metric("hsexport_batch_size_count")
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda seed: server.ask("red", seed=seed, schedule=HYBRID).json(), range(16)))
    for seed, answer in enumerate(answers):
        alone = session.generate("red", seed=seed, schedule=HYBRID).image
        assert np.abs(pictures_of(answer)[0].astype(int) - alone).max() <= 1
    assert server.metric("hsexport_batch_size_count") - before < 16


def test_what_the_encoders_do_not_see_is_told(server):
    (cut, *_) = server.ask("red " * 200).json()["hsexport"]["warnings"]
    assert "does not see its end" in cut


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": "17x16"}, ("width 17 is not a multiple of", "try")),
        ({"size": "4096x16"}, ("width 4096 lies outside the bundle's 8..24",)),
        ({"size": "big"}, ("size:",)),
        ({"n": 11}, ("n:", "less than or equal to 10")),
        ({"n": "2"}, ("n:", "integer")),
        ({"seed": -1}, ("seed:",)),
        ({"steps": 2000}, ("2000 steps",)),
        ({"schedule": "fast"}, ("fast",)),
        ({"response_format": "url"}, ("response_format:", "b64_json")),
        ({"colour": "red"}, ("colour:", "Extra inputs")),
        ({"prompt": None}, ("prompt:", "string")),
    ],
)
def test_what_cannot_be_drawn_is_400(server, fields, words):
    told(server.ask(**fields), 400, *words)


@pytest.mark.parametrize("body", [b'{"prompt": 5', b"", b"\xff\xfe", b"[" * 5000, b'{"prompt": "\\ud800"}', b"null"])
def test_what_is_no_request_is_400(server, body):
    headers = {"content-type": "application/json"}
    told(server.client.post(GENERATIONS, content=body, headers=headers), 400)


def test_a_body_of_another_kind_is_415(server):
    told(server.client.post(GENERATIONS, data={"prompt": "red"}), 415, "expected application/json")


def test_a_large_body_is_413_with_and_without_its_length(server):
    body = b'{"prompt": "' + b"a" * 9000 + b'"}'
    headers = {"content-type": "application/json"}
    told(server.client.post(GENERATIONS, content=body, headers=headers), 413, "8192 bytes")
    told(server.client.post(GENERATIONS, content=iter([body[:5000], body[5000:]]), headers=headers), 413, "8192 bytes")


def test_a_body_that_does_not_come_is_408(server):
    with connected(server) as client:
        client.sendall(b"POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n")
        client.sendall(b'content-length: 100\r\n\r\n{"prompt":')
        assert client.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_another_method_or_path_is_told_in_the_same_shape(server):
    told(server.client.get(GENERATIONS), 405)
    told(server.client.get("/v1/nothing"), 404)


def test_a_caller_who_hangs_up_frees_the_place(server):
    drawn = server.metric("hsexport_pictures_total")
    with connected(server) as client:
        body = b'{"prompt": "red", "schedule": "large:999"}'
        head = f"POST {GENERATIONS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        time.sleep(0.1)
    assert server.ask("red", schedule=HYBRID).status_code == 200
    assert server.metric("hsexport_pictures_total") == drawn + 1


def test_metrics_tell_of_segments_batches_and_the_queue(server):
    server.ask("red", schedule=HYBRID)
    for mode in ("large", "hybrid", "small"):
        assert server.metric(f'hsexport_segment_seconds_count{{mode="{mode}"}}') > 0
    assert server.metric('hsexport_requests_total{status="200"}') > 0
    assert server.metric("hsexport_queue_length") == 0


def test_models_and_bundle_say_what_may_be_asked(server):
    assert server.client.get("/v1/models").json()["data"][0]["id"] == "bundle"
    facts = server.client.get("/v1/bundle").json()
    assert facts["smallest_size"] == "8x8" and facts["largest_size"] == "24x24"
    assert "hybridstitch" in facts["presets"]


def test_after_all_this_it_lives(server):
    assert server.client.get("/health").json() == {"status": "alive"}
    assert server.client.get("/ready").json() == {"status": "ready"}
    assert not any("Traceback" in line for line in server.log)


def test_with_a_key_only_those_who_have_it(tiny_bundle):
    with serving(tiny_bundle, "--api-key", "secret") as server:
        told(server.ask(), 401, "Authorization: Bearer KEY")
        assert server.client.get("/health").status_code == 200
        server.client.headers["authorization"] = "Bearer secret"
        assert server.ask().status_code == 200


def test_sigterm_finishes_what_was_begun_and_ends_with_0(tiny_bundle):
    with serving(tiny_bundle) as server, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(server.ask, "red", seed=seed, schedule="large:300") for seed in range(3)]
        while server.metric("hsexport_queue_length") < 2:
            time.sleep(0.01)
        assert server.terminate() == 0
        assert [answer.result().status_code for answer in asked] == [200] * 3


def test_a_picture_that_takes_too_long_is_504_and_the_next_one_is_drawn(tiny_bundle):
    with serving(tiny_bundle, "--timeout", "0.5") as server:
        told(server.ask(schedule="large:1000", size="24x24", n=10), 504, "0.5 s")
        assert server.ask(schedule="large:1").status_code == 200


def test_connections_that_say_nothing_are_closed(monkeypatch, tiny_bundle):
    with serving(tiny_bundle, "--header-timeout", 1) as server, connected(server) as client:
        client.sendall(b"POST /v1/images/generations HTTP/1.1\r\nhost:")
        assert client.recv(4096) == b""
        assert server.client.get("/ready").status_code == 200


def test_a_port_in_use_is_told_in_one_line(hsexport, tiny_bundle):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = hsexport("serve", tiny_bundle, "--port", taken.getsockname()[1])
    assert done.returncode == 1
    assert "cannot be listened on" in done.stderr and "--port" in done.stderr and "Traceback" not in done.stderr


def test_kill_9_and_a_new_start_answer_again(tiny_bundle):
    first = start(tiny_bundle)
    first.process.kill()
    first.process.wait()
    with serving(tiny_bundle) as server:
        assert server.ask().status_code == 200


def connected(server):
    host, port = httpx.URL(server.url).host, httpx.URL(server.url).port
    return socket.create_connection((host, port), timeout=20)
