"""Through NVIDIA's own server and client: what Triton answers is what the bundle makes anywhere else."""

import json
import queue
import re
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from PIL import Image
from served import file_of
from tritonclient.utils import InferenceServerException

from hsruntime import Session

CLIENTS = 100
MANY_STEPS = 1000
TYPES = {
    "PROMPT": "BYTES",
    "NEGATIVE_PROMPT": "BYTES",
    "SEED": "INT64",
    "WIDTH": "INT32",
    "HEIGHT": "INT32",
    "STEPS": "INT32",
    "GUIDANCE_SCALE": "FP32",
    "SCHEDULE": "BYTES",
    "IMAGE": "BYTES",
    "STRENGTH": "FP32",
    "MASK": "BYTES",
    "MASK_BLUR": "FP32",
    "REGION_MASK": "BYTES",
}
NUMPY_TYPES = {"BYTES": np.object_, "INT64": np.int64, "INT32": np.int32, "FP32": np.float32}
# A batch's products are summed in another order than a single picture's: it may round to the neighbouring level.
LEVELS = 1


def inputs(kind, **values):
    """Inputs of a request; a list has one value for each picture, anything else is for one picture."""
    made = []
    for name, value in values.items():
        rows = value if isinstance(value, list) else [value]
        data = np.array([[r.encode() if isinstance(r, str) else r] for r in rows], NUMPY_TYPES[TYPES[name]])
        made.append(kind.InferInput(name, data.shape, TYPES[name]))
        made[-1].set_data_from_numpy(data)
    return made


def asked(triton, **values):
    """The answer to one request, on a connection of its own; errors are returned."""
    with over_http.InferenceServerClient(triton.http) as client:
        try:
            return client.infer("tiny", inputs(over_http, **values))
        except InferenceServerException as err:
            return err


def all_asked(triton, orders):
    """Answers in order, all asked at once."""
    with ThreadPoolExecutor(len(orders)) as pool:
        return [f.result() for f in [pool.submit(asked, triton, **order) for order in orders]]


def statistics(triton, model="tiny"):
    with over_http.InferenceServerClient(triton.http) as client:
        return client.get_inference_statistics(model)["model_stats"][0]


@pytest.fixture(scope="module")
def session(tiny_bundle):
    with Session.open(tiny_bundle) as opened:
        yield opened


def assert_is_the_sessions(answer, session, **values):
    """The answer's picture, and what else it says, is what the session makes of the same order."""
    assert not isinstance(answer, Exception), answer
    names = {name.lower(): value for name, value in values.items()}
    expected = session.generate(names.pop("prompt"), **names)
    image = answer.as_numpy("IMAGE")
    assert image.dtype == np.uint8 and image.shape == expected.images.shape
    assert np.abs(image.astype(int) - expected.images).max() <= LEVELS
    assert answer.as_numpy("SCHEDULE_USED")[0, 0].decode() == str(expected.schedule)
    assert answer.as_numpy("SECONDS")[0, 0] > 0
    if expected.region is None:
        assert answer.as_numpy("REGION") is None
    else:
        np.testing.assert_array_equal(answer.as_numpy("REGION"), expected.region.reshape(1, *expected.grid))


def test_both_models_are_ready(triton):
    with over_http.InferenceServerClient(triton.http) as client:
        index = {model["name"]: model["state"] for model in client.get_model_repository_index()}
    assert index == {"tiny": "READY", "tiny_progress": "READY"}


@pytest.mark.slow
def test_a_hundred_clients_at_once_are_batched_and_get_the_sessions_pictures(triton, session):
    before = statistics(triton)
    orders = [{"PROMPT": f"abc{chr(97 + i % 26)}", "SEED": i} for i in range(CLIENTS)]
    answers = all_asked(triton, orders)
    after = statistics(triton)
    for order, answer in zip(orders, answers, strict=True):
        assert_is_the_sessions(answer, session, **order)
    assert after["inference_count"] - before["inference_count"] == CLIENTS
    assert after["execution_count"] - before["execution_count"] < CLIENTS / 2


def test_pictures_are_those_that_the_command_writes(triton, hsexport, tiny_bundle, tmp_path):
    prompts = ["abc", "xyz", "mno", "k"]
    told = [word for prompt in prompts for word in ("--prompt", prompt)]
    done = hsexport("run", tiny_bundle, *told, "--seed", 5, "--out", tmp_path / "p.png")
    assert done.returncode == 0, done.stderr
    answers = all_asked(triton, [{"PROMPT": p, "SEED": 5 + i} for i, p in enumerate(prompts)])
    for i, answer in enumerate(answers):
        written = np.asarray(Image.open(tmp_path / f"p-{i}.png")).astype(int)
        assert np.abs(answer.as_numpy("IMAGE")[0] - written).max() <= LEVELS


def test_mixed_orders_each_get_their_own(triton, session):
    kinds = [
        {},
        {"WIDTH": 24, "HEIGHT": 8},
        {"SCHEDULE": "large:2,hybrid:2,small:1"},
        {"SCHEDULE": "small", "STEPS": 3},
        {"GUIDANCE_SCALE": 1.0, "STEPS": 4},
        {"NEGATIVE_PROMPT": "xyz"},
        {"SCHEDULE": '{"steps": 3, "segments": [{"steps": 2, "large": "full"}, {"steps": 1, "small": "full"}]}'},
    ]  # fmt: skip
    orders = [{"PROMPT": "abc", "SEED": 10 * i + k, **kind} for i in range(4) for k, kind in enumerate(kinds)]
    for order, answer in zip(orders, all_asked(triton, orders), strict=True):
        assert_is_the_sessions(answer, session, **order)


BAD = [
    ({"WIDTH": 512}, "width 512 lies outside the bundle's 8..24"),
    ({"SCHEDULE": "hybridstich"}, "no preset 'hybridstich'"),
    ({"SCHEDULE": b"\xff\xfe"}, "SCHEDULE is not text"),
    ({"PROMPT": b"abc\xff"}, "PROMPT is not text"),
    ({"NEGATIVE_PROMPT": b"\xff"}, "NEGATIVE_PROMPT is not text"),
    ({"SEED": -1}, "seed -1 is negative"),
    ({"STEPS": 0}, "0 steps"),
    ({"GUIDANCE_SCALE": float("nan")}, "guidance_scale nan"),
    ({"PROMPT": ["a", "b"], "SEED": [0, 1], "WIDTH": [16, 24]}, "WIDTH differs within one request"),
    ({"IMAGE": b"hello"}, "the image is no picture"),
    ({"STRENGTH": 0.5}, "there is a strength, and no picture"),
    ({"PROMPT": ["a", "b"], "IMAGE": [b"a", b"b"]}, "IMAGE differs within one request;"),
]


def test_bad_requests_get_400_and_our_line_and_their_neighbours_get_pictures(triton, session):
    good = [{"PROMPT": "abc", "SEED": i} for i in range(len(BAD))]
    bad = [{"PROMPT": "abc", **values} for values, _ in BAD]
    answers = all_asked(triton, [order for pair in zip(good, bad, strict=True) for order in pair])
    for order, answer in zip(good, answers[::2], strict=True):
        assert_is_the_sessions(answer, session, **order)
    for (_, line), answer in zip(BAD, answers[1::2], strict=True):
        assert isinstance(answer, InferenceServerException), line
        assert answer.status() == "400" and line in answer.message()


def test_pictures_begin_from_others(triton, session):
    rng = np.random.default_rng(2)
    marked = np.zeros((16, 16), np.uint8)
    marked[4:9, 6:13] = 255
    files = {"IMAGE": file_of(rng.integers(0, 256, (16, 16, 3), np.uint8)), "MASK": file_of(marked)}
    order = {"PROMPT": "abc", "SEED": 3, "SCHEDULE": "large:2,hybrid:2,small:1", "STRENGTH": 0.75, "MASK_BLUR": 2.0}
    assert_is_the_sessions(asked(triton, **order, **files), session, **order, **files)
    marks = {"REGION_MASK": file_of(marked)}
    order = {"PROMPT": "abc", "SEED": 3, "SCHEDULE": "large:2,hybrid:2,small:1"}
    assert_is_the_sessions(asked(triton, **order, **marks), session, **order, **marks)


def test_one_request_may_ask_for_several_pictures(triton, session):
    order = {"PROMPT": ["abc", "xyz", "m"], "SEED": [4, 9, 2]}
    answer = asked(triton, **order, SCHEDULE=["small:2"] * 3)
    expected = session.generate(order["PROMPT"], seed=order["SEED"], schedule="small:2")
    assert answer.as_numpy("IMAGE").shape == (3, 16, 16, 3)
    assert np.abs(answer.as_numpy("IMAGE").astype(int) - expected.images).max() <= LEVELS


@contextmanager
def streaming(triton):
    """A gRPC client and the queue into which its stream puts (answer, error)."""
    answers = queue.Queue()
    with over_grpc.InferenceServerClient(triton.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        yield client, answers


def next_of(answers):
    answer, error = answers.get(timeout=20)
    assert error is None, error
    return answer


def test_progress_comes_after_every_step_and_the_picture_last(triton, session):
    order = {"PROMPT": "abc", "SEED": 3, "SCHEDULE": "large:2,hybrid:2,small:1"}
    with streaming(triton) as (client, answers):
        client.async_stream_infer("tiny_progress", inputs(over_grpc, **order))
        steps = [next_of(answers).as_numpy("PROGRESS").tolist() for _ in range(5)]
        last = next_of(answers)
    assert steps == [[[step, 5]] for step in range(1, 6)]
    assert last.as_numpy("PROGRESS") is None
    assert last.get_response().parameters["triton_final_response"].bool_param
    assert_is_the_sessions(last, session, **order)


def test_a_bad_request_ends_its_stream_with_our_line(triton):
    with streaming(triton) as (client, answers):
        client.async_stream_infer("tiny_progress", inputs(over_grpc, PROMPT="abc", WIDTH=512))
        _, error = answers.get(timeout=20)
    assert "width 512 lies outside" in error.message()


def test_progress_streams_over_plain_http(triton):
    body = json.dumps({"PROMPT": "abc", "SCHEDULE": "small:3"}).encode()
    url = f"http://{triton.http}/v2/models/tiny_progress/generate_stream"
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=20) as answer:
        events = [json.loads(line.removeprefix(b"data: ")) for line in answer if line.startswith(b"data: ")]
    assert [event.get("PROGRESS") for event in events] == [[1, 3], [2, 3], [3, 3], None]
    assert len(events[-1]["IMAGE"]) == 16 * 16 * 3


def test_a_cancelled_request_ends_long_before_its_last_step(triton, triton_log):
    logged = len(triton_log.read_text())
    order = {"PROMPT": ["abc"] * 4, "WIDTH": [24] * 4, "HEIGHT": [24] * 4, "SCHEDULE": [f"large:{MANY_STEPS}"] * 4}
    with streaming(triton) as (client, answers):
        client.async_stream_infer("tiny_progress", inputs(over_grpc, **order))
        seen = [next_of(answers).as_numpy("PROGRESS")[0, 0] for _ in range(20)]
        client.stop_stream(cancel_requests=True)
    with streaming(triton) as (client, answers):
        client.async_stream_infer("tiny_progress", inputs(over_grpc, PROMPT="abc", SCHEDULE="small:1"))
        assert next_of(answers).as_numpy("PROGRESS").tolist() == [[1, 1]]
    ended = re.findall(rf"after step (\d+) of {MANY_STEPS}", triton_log.read_text()[logged:])
    # The client reads and cancels while the server goes on; from the cancellation's arrival it is one step at most.
    assert len(ended) == 1 and seen[-1] == 20 <= int(ended[0]) < MANY_STEPS / 2


def test_a_request_cancelled_in_the_queue_or_while_it_runs_harms_no_other(triton, session):
    long = inputs(over_grpc, PROMPT=["abc"] * 4, SCHEDULE=[f"large:{MANY_STEPS}"] * 4)
    with over_grpc.InferenceServerClient(triton.grpc) as client:
        told = queue.Queue()
        calls = [client.async_infer("tiny", long, lambda result, error: told.put(error)) for _ in range(3)]
        time.sleep(0.1)  # the first one runs, the others wait
        for call in calls:
            call.cancel()
        errors = [told.get(timeout=20) for _ in calls]
    assert all("cancelled" in str(error).lower() for error in errors)
    assert_is_the_sessions(asked(triton, PROMPT="abc", SEED=1), session, PROMPT="abc", SEED=1)
