"""The C library in a process that runs Python already: this one."""

from __future__ import annotations

import ctypes as c
import gc
import io
import json
from concurrent.futures import ThreadPoolExecutor

import capi_types as t
import numpy as np
import pytest
from PIL import Image

from hsruntime import Session

SCHEDULE = b"large:2,hybrid:2,small:1"


@pytest.fixture(scope="module")
def lib(library):
    return t.loaded(library.file)


def opened(lib, bundle) -> c.c_void_p:
    handle = c.c_void_p()
    options = t.OpenOptions(c.sizeof(t.OpenOptions), flags=1)
    assert lib.hsr_open(str(bundle).encode(), options, c.byref(handle)) == t.OK, lib.hsr_last_error()
    return handle


@pytest.fixture(scope="module")
def handle(lib, tiny_bundle):
    handle = opened(lib, tiny_bundle)
    yield handle
    assert lib.hsr_close(handle) == t.OK


@pytest.fixture(scope="module")
def session(tiny_bundle):
    with Session.open(tiny_bundle, hashes=False) as session:
        yield session


def generated(lib, handle, request):
    """The result, whose tensors have not been taken."""
    result = c.POINTER(t.Result)()
    assert lib.hsr_generate(handle, request, c.byref(result)) == t.OK, lib.hsr_last_error()
    return result


def arrays(lib, result, *names) -> list[np.ndarray]:
    """Takes tensors out of the result and frees the rest."""
    taken = []
    for name in names:
        taken.append(t.taken(getattr(result.contents, name)))
        setattr(result.contents, name, None)
    lib.hsr_result_free(result)
    return taken


def refused(lib, handle, request) -> tuple[int, str]:
    result = c.POINTER(t.Result)()
    status = lib.hsr_generate(handle, request, c.byref(result))
    assert not result
    return status, lib.hsr_last_error().decode()


def test_pictures_latents_and_region_are_python_s(lib, handle, session):
    result = generated(lib, handle, t.request_for(b"red", b"green", seeds=(5,), schedule=SCHEDULE))
    assert result.contents.seconds > result.contents.loop_seconds > 0
    assert result.contents.schedule.decode().startswith(SCHEDULE.decode())
    found = arrays(lib, result, "images", "latents", "region")
    expected = session.generate(["red", "green"], seed=5, schedule=SCHEDULE.decode())
    for mine, theirs in zip(found, (expected.images, expected.latents, expected.region), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_tensors_are_not_copied_and_outlive_their_session(lib, tiny_bundle):
    handle = opened(lib, tiny_bundle)
    result = generated(lib, handle, t.request_for(b"red", schedule=b"small:1"))
    address = result.contents.images.contents.tensor.data
    (images,) = arrays(lib, result, "images")
    before = images.copy()
    assert lib.hsr_close(handle) == t.OK
    gc.collect()
    assert images.ctypes.data == address
    np.testing.assert_array_equal(images, before)


def test_embeddings_make_the_prompt_s_picture(lib, handle, session):
    found = c.POINTER(t.Embeddings)()
    assert lib.hsr_encode(handle, t.request_for(b"red", guidance_scale=3.0), c.byref(found)) == t.OK
    made = [found.contents.tensors[i] for i in range(found.contents.count)]
    assert [each.name for each in made] == [b"text", b"pooled"]
    given = (t.Embedding * 2)(*((each.name, c.pointer(each.tensor.contents.tensor)) for each in made))
    request = t.request_for(embeddings=given, embedding_count=2, seeds=(7,), guidance_scale=3.0)
    (images,) = arrays(lib, generated(lib, handle, request), "images")
    lib.hsr_embeddings_free(found)
    np.testing.assert_array_equal(images, session.generate("red", seed=7, guidance_scale=3.0).images)


def test_embeddings_are_for_the_adapters_that_are_asked_for(lib, handle):
    found = c.POINTER(t.Embeddings)()
    assert lib.hsr_encode(handle, t.request_for(b"red", lora=b"style"), c.byref(found)) != t.OK
    assert lib.hsr_last_error().decode().startswith("there is no adapter 'style'")


def test_latents_replace_the_noise(lib, handle, session):
    noise = np.random.default_rng(0).standard_normal(
        session.generate("x", schedule="small:1").latents.shape, np.float32
    )
    request = t.request_for(b"red", latents=c.pointer(t.tensor_of(noise)))
    (images,) = arrays(lib, generated(lib, handle, request), "images")
    np.testing.assert_array_equal(images, session.generate("red", latents=noise).images)


def test_cancellation_comes_within_one_step(lib, handle):
    steps = []

    @t.Step
    def on_step(user, progress):
        steps.append((progress.contents.step, progress.contents.steps, progress.contents.mode))
        return len(steps) == 3

    status, message = refused(lib, handle, t.request_for(b"red", schedule=SCHEDULE, on_step=on_step))
    assert (status, message) == (t.CANCELLED, "the callback cancelled it")
    assert steps == [(1, 5, b"large"), (2, 5, b"large"), (3, 5, b"hybrid")]


def test_call_from_its_own_callback_is_refused(lib, handle):
    found = []

    @t.Step
    def on_step(user, progress):
        found.append(refused(lib, handle, t.request_for(b"again")))
        return 1

    assert refused(lib, handle, t.request_for(b"red", on_step=on_step))[0] == t.CANCELLED
    assert found == [(t.ARGUMENT, "a session was called from its own callback; call it afterwards")]


def test_other_text_encoders_read_their_own_prompts(lib, handle, session):
    other = (c.c_char_p * 1)(b"blue")
    asked = t.request_for(b"red", schedule=b"small:2", prompt_2s=other, prompt_2_count=1)
    found = arrays(lib, generated(lib, handle, asked), "images")[0]
    np.testing.assert_array_equal(found, session.generate("red", prompt_2="blue", schedule="small:2").images)
    assert (found != session.generate("red", schedule="small:2").images).any()


def test_pictures_begin_from_others(lib, handle, session):
    picture = np.random.default_rng(3).integers(0, 256, (16, 16, 3), np.uint8)
    marked = np.zeros((16, 16), np.uint8)
    marked[3:9, 5:14] = 255
    files = {"image": png(picture), "mask": png(marked), "region_mask": png(marked.T.copy())}
    given = {name: t.file_of(data) for name, data in files.items()}
    asked = t.request_for(b"red", b"green", schedule=SCHEDULE, strength=0.7, mask_blur=2.0, **given)
    result = generated(lib, handle, asked)
    assert result.contents.warnings == b""
    (images,) = arrays(lib, result, "images")
    asked = {"schedule": SCHEDULE.decode(), "strength": 0.7, "mask_blur": 2.0}
    np.testing.assert_array_equal(images, session.generate(["red", "green"], **files, **asked).images)
    np.testing.assert_array_equal(images[1][marked == 0], picture[marked == 0])


def test_what_was_not_taken_as_it_was_given_is_told(lib, handle):
    files = {"image": png(np.zeros((16, 16, 3), np.uint8)), "mask": png(np.full((8, 32), 255, np.uint8))}
    given = {name: t.file_of(data) for name, data in files.items()}
    result = generated(lib, handle, t.request_for(b"red " * 100, schedule=b"small:1", **given))
    told = result.contents.warnings.decode().splitlines()
    lib.hsr_result_free(result)
    assert "stretched over it" in told[0] and "marks the whole picture" in told[1] and "does not see" in told[2]


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_threads_of_one_session_queue_and_get_their_own_pictures(lib, handle, session):
    def picture(seed):
        return arrays(lib, generated(lib, handle, t.request_for(b"red", seeds=(seed,), schedule=b"small:2")), "images")[
            0
        ]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(picture, range(24)))
    for seed in (0, 11, 23):
        np.testing.assert_array_equal(found[seed], session.generate("red", seed=seed, schedule="small:2").images)


def test_describe_tells_sizes_and_defaults(lib, handle, session):
    text = c.c_char_p()
    assert lib.hsr_describe(handle, c.byref(text)) == t.OK
    facts = json.loads(text.value)
    assert facts["sizes"] == {"default": [16, 16], "minimum": [8, 8], "maximum": [24, 24], "multiple": 4}
    assert facts["max_batch"] == 4
    embeddings = session.encode(["red"])
    assert {name: shape[1:] for name, shape in facts["text"].items()} == {
        name: list(array.shape[1:]) for name, array in embeddings.items()
    }
    assert facts["defaults"]["schedule"] == session.manifest.facts.defaults.schedule


def test_missing_bundle_is_told(lib, tmp_path):
    handle = c.c_void_p()
    assert lib.hsr_open(str(tmp_path / "no").encode(), None, c.byref(handle)) == t.BUNDLE
    assert "does not exist" in lib.hsr_last_error().decode()
    assert not handle


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"threads": -1}, "threads -1 lies outside"),
        ({"threads": 2**31 - 1}, "lies outside"),
        ({"memory_cap_mb": float("nan")}, "is no amount of memory"),
        ({"memory_cap_mb": -1.0}, "is no amount of memory"),
        ({"vae_tile": -8}, "vae_tile -8"),
        ({"identity": b"0" * 64}, "has identity"),
        ({"device": b"NPU"}, "finds no device 'NPU' here, only CPU"),
    ],
)
def test_bad_option_is_a_status_and_a_line(lib, tiny_bundle, fields, words):
    handle, options = c.c_void_p(), t.OpenOptions(c.sizeof(t.OpenOptions), flags=1)
    for name, value in fields.items():
        setattr(options, name, value)
    status = lib.hsr_open(str(tiny_bundle).encode(), options, c.byref(handle))
    assert status in (t.REQUEST, t.BUNDLE, t.BACKEND) and not handle
    assert words in lib.hsr_last_error().decode()


def test_prompt_without_end_is_refused_at_once(lib, handle):
    assert refused(lib, handle, t.request_for(b"a " * 2**25))[0] == t.REQUEST


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"width": 17}, t.REQUEST, "width 17 is not a multiple of"),
        ({"schedule": b"nonsense"}, t.REQUEST, "nonsense"),
        ({"schedule": b"\xff"}, t.REQUEST, "a schedule is not UTF-8"),
        ({"struct_size": 3}, t.ARGUMENT, f"hsr_request's struct_size is 3, expected {c.sizeof(t.Request)}"),
        ({"prompt_count": 0}, t.REQUEST, "neither a prompt nor embeddings"),
        ({"prompt_count": 2**40}, t.ARGUMENT, "prompts's count is 1099511627776, more than"),
        ({"seed_count": 2**60}, t.ARGUMENT, "seeds's count is"),
        ({"embedding_count": 2**60}, t.ARGUMENT, "embeddings"),
        ({"guidance_scale": float("nan")}, t.REQUEST, "not a finite number"),
        ({"guidance_scale": 1e30}, t.REQUEST, "lies outside"),
        ({"image": t.file_of(b"hello")}, t.REQUEST, "the image is no picture that can be read"),
        ({"image": t.File(None, 7)}, t.ARGUMENT, "image has 7 bytes, and its data is NULL"),
        ({"mask": t.File(b"", 0)}, t.ARGUMENT, "mask has 0 bytes"),
        ({"region_mask": t.File(b"x", 2**63)}, t.ARGUMENT, "region_mask has 9223372036854775808 bytes"),
        ({"strength": 0.5}, t.REQUEST, "there is a strength, and no picture"),
    ],
)
def test_bad_request_is_a_status_and_a_line(lib, handle, fields, status, words):
    request = t.request_for(b"red")
    for name, value in fields.items():
        setattr(request, name, value)
    found, message = refused(lib, handle, request)
    assert found == status
    assert words in message


def test_tensor_of_another_type_is_refused(lib, handle):
    request = t.request_for(b"red", latents=c.pointer(t.tensor_of(np.zeros((1, 4, 4, 4), np.float64))))
    assert refused(lib, handle, request) == (t.ARGUMENT, "latents is not float32")


def test_older_shorter_request_still_works(lib, handle, session):
    request = t.request_for(b"red", seeds=(3,))
    request.width = 99  # beyond what this caller's version knows
    request.struct_size = t.Request.width.offset
    (images,) = arrays(lib, generated(lib, handle, request), "images")
    np.testing.assert_array_equal(images, session.generate("red", seed=3).images)


def test_newer_longer_request_works_unless_it_uses_what_is_unknown(lib, handle):
    class Newer(c.Structure):
        _fields_ = (("known", t.Request), ("unknown", c.c_uint64))

    newer = Newer(t.request_for(b"red", schedule=b"small:1"))
    newer.known.struct_size = c.sizeof(Newer)
    arrays(lib, generated(lib, handle, newer.known), "images")
    newer.unknown = 1
    status, message = refused(lib, handle, newer.known)
    assert status == t.ARGUMENT
    assert "install a newer hsruntime" in message
