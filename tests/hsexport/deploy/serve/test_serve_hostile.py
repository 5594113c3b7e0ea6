"""Callers who mean no good, and operators in a hurry: silent sockets, signals, names, keys, pages from elsewhere."""

import json
import random
import resource
import shutil
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import httpx
import msgspec
import pytest
from served import GENERATIONS, serving

from hsexport.deploy.serve.api import LONGEST_PROMPT
from hsexport.deploy.serve.options import ServerOptions
from hsexport.deploy.serve.service import Service
from hsruntime.bundle.manifest import manifest_bytes
from hsruntime.bundle.reader import MANIFEST_NAME, open_bundle
from hsruntime.options import SessionOptions

ROUNDS = 20
WHOLE = b"GET /ready HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def server(tiny_bundle):
    with serving(tiny_bundle, "--cors-origin", "http://ours.example", "--allowed-host", "pictures.example") as server:
        yield server


def connected(server):
    url = httpx.URL(server.url)
    return socket.create_connection((url.host, url.port), timeout=30)


def is_closed(client):
    try:
        while client.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


def test_a_deadline_for_the_headers_of_every_request(tiny_bundle):
    with serving(tiny_bundle, "--header-timeout", 1) as server, connected(server) as client:
        for _ in range(2):
            client.sendall(WHOLE)
            answer = b""
            while b'"ready"' not in answer:
                answer += client.recv(4096)
        client.sendall(WHOLE[:20])
        assert is_closed(client)


HALF_OPEN = {
    "silent": b"",
    "half a line": b"GET /hea",
    "half the headers": b"GET /health HTTP/1.1\r\nhost: loc",
    "half a body": b"POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b'content-length: 99\r\n\r\n{"prompt"',
    "one request and half of the next": WHOLE + WHOLE[:25],
    "an answer nobody reads": b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n" * 2,
}


@pytest.mark.parametrize("kind", HALF_OPEN)
def test_a_thousand_connections_in_a_half_open_state_leave_room_for_probes(server, kind):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        with ExitStack() as stack:
            for _ in range(1000):
                client = stack.enter_context(connected(server))
                if HALF_OPEN[kind]:
                    client.sendall(HALF_OPEN[kind])
            for path in ("/health", "/ready"):
                with httpx.Client(base_url=server.url, timeout=5) as probe:
                    assert probe.get(path).status_code == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert server.ask(schedule="large:1").status_code == 200


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)])
def test_a_second_signal_gives_up_with_503_and_exit_code_1(tiny_bundle, numbers):
    with serving(tiny_bundle) as server, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(server.ask, seed=seed, schedule="large:1000", size="24x24") for seed in range(3)]
        while server.metric("hsexport_queue_length") < 2:
            time.sleep(0.01)
        for number in numbers:
            server.process.send_signal(number)
            time.sleep(0.3)
        _gave_up(server, asked)


def test_a_drain_that_is_too_short_gives_up_with_503_and_exit_code_1(tiny_bundle):
    with serving(tiny_bundle, "--drain-timeout", "0.1") as server, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(server.ask, seed=seed, schedule="large:1000", size="24x24") for seed in range(3)]
        while server.metric("hsexport_queue_length") < 2:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        _gave_up(server, asked)


def _gave_up(server, asked):
    assert server.process.wait(60) == 1, "".join(server.log)
    for answer in asked:
        assert answer.result().status_code == 503
        assert answer.result().json()["error"]["type"] == "unavailable_error"
    log = "".join(server.log)
    assert "terminate called" not in log and "Traceback" not in log


@pytest.mark.slow
def test_two_signals_at_random_moments(tiny_bundle):
    rng = random.Random(3)
    for _ in range(ROUNDS):
        with serving(tiny_bundle) as server, ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(server.ask, seed=seed, schedule="large:400") for seed in range(3)]
            time.sleep(rng.random())
            server.process.send_signal(signal.SIGTERM)
            time.sleep(rng.random() / 2)
            server.process.send_signal(rng.choice([signal.SIGTERM, signal.SIGINT]))
            assert server.process.wait(60) in (0, 1), "".join(server.log)
            for answer in asked:
                with suppress(httpx.TransportError):  # it had not been taken on
                    assert answer.result().status_code in (200, 503)
            assert "terminate called" not in "".join(server.log)


def test_callers_who_hang_up_leave_nothing_in_the_log(server):
    body = json.dumps({"prompt": "red", "schedule": "large:300"}).encode()
    head = f"POST {GENERATIONS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    for _ in range(12):
        with connected(server) as client:
            client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    time.sleep(1.5)
    assert server.ask(schedule="large:1").status_code == 200
    assert "never retrieved" not in "".join(server.log)


def post(server, **headers):
    return server.client.post(GENERATIONS, content=b'{"prompt": "red", "schedule": "large:1"}', headers=headers)


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:80"])
def test_a_name_that_leads_here_by_somebody_elses_dns_is_403(server, host):
    assert post(server, **JSON, host=host).status_code == 403
    assert server.client.get("/", headers={"host": host}).status_code == 403
    assert server.client.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost:1", "127.0.0.1", "[::1]:8000", "10.2.3.4", "pictures.example", "LOCALHOST"]
)
def test_its_own_names_and_addresses_pass(server, host):
    assert post(server, **JSON, host=host).status_code == 200


def test_a_page_from_elsewhere_may_not_ask_unless_it_is_named(server):
    assert post(server, **JSON, origin="http://evil.example").status_code == 403
    assert post(server, **JSON, origin="null").status_code == 403
    assert post(server, **JSON, origin=server.url).status_code == 200
    named = post(server, **JSON, origin="http://ours.example")
    assert named.status_code == 200 and named.headers["access-control-allow-origin"] == "http://ours.example"


def test_a_post_without_a_content_type_draws_nothing(server):
    answer = server.client.post(GENERATIONS, content=b'{"prompt": "red"}')
    assert answer.status_code == 415 and answer.json()["error"]["type"] == "invalid_request_error"
    assert post(server, **{"content-type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_run_what_stands_in_them_alone(server, path):
    answer = server.client.get(path)
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"
    assert 'src="http' not in answer.text and "cdn" not in answer.text.lower()


def test_keys(tiny_bundle):
    with serving(tiny_bundle, "--api-key", "schlüssel") as server:
        answer = server.ask()
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        for scheme in ("Bearer", "bearer", "BEARER"):
            sent = f"{scheme} schlüssel".encode()
            assert post(server, **JSON, authorization=sent).status_code == 200
        for sent in ("schlüssel", "Basic schlüssel", "Bearer schlussel", "Bearer"):
            assert post(server, **JSON, authorization=sent.encode()).status_code == 401


@pytest.mark.parametrize(("options", "env"), [(("--api-key", ""), {}), ((), {"HSEXPORT_API_KEY": ""})])
def test_an_empty_key_is_a_usage_error(hsexport, tiny_bundle, options, env):
    done = hsexport("serve", tiny_bundle, *options, env=env)
    assert done.returncode == 2 and "an empty key would let everybody in" in done.stderr


def test_an_open_door_is_told(tiny_bundle):
    with serving(tiny_bundle, "--host", "0.0.0.0") as server:
        assert any("warning: 0.0.0.0 is reached from elsewhere" in line for line in server.log)


def test_nulls_and_the_specification_s_defaults_are_as_if_left_out(server):
    nulls = dict.fromkeys(["n", "size", "response_format", "output_format", "seed", "steps", "negative_prompt"])
    spec = {"quality": "auto", "background": "auto", "moderation": "auto", "stream": False, "partial_images": 0}
    assert server.ask(schedule="large:1", **nulls, **spec).status_code == 200
    for field in ({"quality": "hd"}, {"stream": True}, {"partial_images": 2}, {"background": "transparent"}):
        answer = server.ask(**field)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == next(iter(field))


def test_each_seed_of_an_answer_can_be_asked_for(server):
    last = 2**53 - 1
    answer = server.ask(seed=last - 1, n=2, schedule="large:1")
    assert [picture["seed"] for picture in answer.json()["data"]] == [last - 1, last]
    assert server.ask(seed=last, schedule="large:1").status_code == 200
    assert server.ask(seed=last, n=2, schedule="large:1").status_code == 400


def test_models_and_heads(server):
    name = server.client.get("/v1/models").json()["data"][0]["id"]
    assert server.client.get(f"/v1/models/{name}").json()["id"] == name
    assert server.client.get("/v1/models/other").status_code == 404
    for path in ("/", "/health", "/ready", "/v1/models", "/metrics"):
        answer = server.client.head(path)
        assert answer.status_code == 200 and answer.content == b""


def test_identity_of_the_bundle_at_work_is_told(server, tiny_bundle):
    assert server.client.get("/v1/bundle").json()["identity"] == open_bundle(tiny_bundle).manifest.identity


@pytest.mark.slow
def test_probes_are_answered_while_the_longest_prompts_are_read(server):
    with ThreadPoolExecutor(8) as pool:
        prompt = "a " * (LONGEST_PROMPT // 2)
        asked = [pool.submit(server.ask, prompt, negative_prompt=prompt, schedule="large:1") for _ in range(8)]
        while not all(answer.done() for answer in asked):
            assert server.client.get("/health", timeout=5).status_code == 200
        assert {answer.result().status_code for answer in asked} <= {200, 429}


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a library's own"), OSError("no such disk")])
def test_a_replacement_that_cannot_be_opened_does_not_end_the_watch(tiny_bundle, tmp_path, error, monkeypatch):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    service = Service(bundle, ServerOptions(watch=0.02, warm_up=False), SessionOptions())
    manifest, tried = service.session.manifest, []
    other = manifest.with_defaults(msgspec.structs.replace(manifest.facts.defaults, steps=5))
    (bundle / MANIFEST_NAME).write_bytes(manifest_bytes(other))

    def open_session(found):
        tried.append(found)
        raise error

    monkeypatch.setattr(service, "_session_of", open_session)
    service.start()
    deadline = time.monotonic() + 30
    while len(tried) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    service.close()
    assert len(tried) >= 3 and service.session.manifest == manifest
    assert b'hsexport_bundle_reloads_total{outcome="refused"} 1.0' in service.metrics.text()
