"""Pictures that begin from others, over a real socket: forms, base64 in JSON, OpenAI's own client, no pictures."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from openai import BadRequestError, OpenAI
from PIL import Image
from served import EDITS, GENERATIONS, array_of, file_of, pictures_of, serving

from hsruntime import Session

SCHEDULE = "large:2,hybrid:2,small:1"
MARKED = np.zeros((16, 16), bool)
MARKED[4:9, 6:13] = True


@pytest.fixture(scope="module")
def server(tiny_bundle):
    with serving(tiny_bundle, "--max-body-kb", 64, "--max-upload-kb", 512, "--body-timeout", 2) as server:
        yield server


@pytest.fixture(scope="module")
def session(tiny_bundle):
    with Session.open(tiny_bundle, hashes=False) as session:
        yield session


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(5).integers(0, 256, (16, 16, 3), np.uint8)


def white(marked):
    return file_of(np.where(marked, 255, 0).astype(np.uint8))


def clear(marked):
    """As OpenAI has it: transparent where it is drawn anew."""
    return file_of(np.dstack([np.full((*marked.shape, 3), 9, np.uint8), np.where(marked, 0, 255).astype(np.uint8)]))


def drawn(response):
    assert response.status_code == 200, response.text
    return pictures_of(response.json())[0]


def told(response, status, *words):
    assert response.status_code == status, response.text
    message = response.json()["error"]["message"]
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def test_a_form_draws_what_the_session_draws(server, session, picture):
    asked = {"seed": 3, "schedule": SCHEDULE, "strength": 0.7, "mask_blur": 1.5, "guidance_scale": 2}
    answer = server.edit(file_of(picture), files=[("mask", white(MARKED))], **asked)
    expected = session.generate("red", image=picture, mask=white(MARKED), **asked)
    np.testing.assert_array_equal(drawn(answer), expected.image)
    np.testing.assert_array_equal(drawn(answer)[~MARKED], picture[~MARKED])
    assert answer.json()["hsexport"]["schedule"] == str(expected.schedule)


def test_base64_in_json_draws_the_same(server, session, picture):
    asked = {"seed": 3, "schedule": SCHEDULE, "strength": 0.7}
    files = {"image": file_of(picture), "mask": white(MARKED), "region_mask": white(MARKED.T)}
    texts = {name: base64.b64encode(data).decode() for name, data in files.items()}
    expected = session.generate("red", **files, **asked).image
    np.testing.assert_array_equal(drawn(server.ask(**texts, **asked)), expected)
    beside = [(name, data) for name, data in files.items() if name != "image"]
    np.testing.assert_array_equal(drawn(server.edit(files["image"], files=beside, **asked)), expected)
    mixed = server.edit(files["image"], mask=texts["mask"], region_mask=texts["region_mask"], **asked)
    np.testing.assert_array_equal(drawn(mixed), expected)


def test_a_region_mask_alone_says_where_large_refines(server, session):
    marks = base64.b64encode(white(MARKED)).decode()
    answer = server.ask(seed=3, schedule=SCHEDULE, region_mask=marks, region=True)
    expected = session.generate("red", seed=3, schedule=SCHEDULE, region_mask=white(MARKED))
    np.testing.assert_array_equal(drawn(answer), expected.image)


def test_openai_s_masks_are_transparent_where_something_is_drawn(server, picture):
    asked = {"seed": 3, "schedule": SCHEDULE}
    ours = drawn(server.edit(file_of(picture), files=[("mask", white(MARKED))], **asked))
    theirs = drawn(server.edit(file_of(picture), files=[("mask", clear(MARKED))], **asked))
    np.testing.assert_array_equal(ours, theirs)
    opaque = Image.fromarray(np.where(MARKED, 255, 0).astype(np.uint8)).convert("RGBA")
    np.testing.assert_array_equal(
        ours, drawn(server.edit(file_of(picture), files=[("mask", file_of(opaque))], **asked))
    )


@pytest.mark.parametrize("name", ["image", "image[]"])
def test_a_picture_goes_by_either_of_its_names(server, picture, name):
    first, again = (server.edit(None, files=[(name, file_of(picture))], seed=1) for _ in range(2))
    np.testing.assert_array_equal(drawn(first), drawn(again))


def test_openai_s_client_edits(server, session, picture):
    client = OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0)
    asked = {"prompt": "red", "n": 2, "size": "16x16", "response_format": "b64_json", "user": "me", "quality": "auto"}
    answer = client.images.edit(
        image=("cat.png", file_of(picture), "image/png"),
        mask=io.BytesIO(clear(MARKED)),
        extra_body={"seed": 4, "schedule": SCHEDULE, "strength": 0.7},
        **asked,
    )
    for i, entry in enumerate(answer.data):
        expected = session.generate(
            "red", seed=4 + i, schedule=SCHEDULE, strength=0.7, image=picture, mask=white(MARKED)
        )
        assert np.abs(array_of(entry.b64_json).astype(int) - expected.image).max() <= 1
    assert answer.hsexport["schedule"] == str(expected.schedule)
    one = client.images.edit(image=[file_of(picture)], prompt="red", extra_body={"seed": 4})
    assert one.data[0].b64_json
    with pytest.raises(BadRequestError, match="image: one picture is taken, several were sent"):
        client.images.edit(image=[file_of(picture)] * 2, prompt="red")
    generated = client.images.generate(prompt="red", extra_body={"seed": 4, "schedule": SCHEDULE})
    np.testing.assert_array_equal(
        array_of(generated.data[0].b64_json), session.generate("red", seed=4, schedule=SCHEDULE).image
    )


def test_a_mask_of_another_shape_or_of_everything_is_taken_and_told(server, picture):
    wide = np.ones((8, 32), bool)
    wide[:, :16] = False
    warnings = server.edit(file_of(picture), files=[("mask", white(wide))]).json()["hsexport"]["warnings"]
    assert any("32x8" in line and "stretched" in line for line in warnings)
    whole = server.edit(file_of(picture), files=[("mask", white(np.ones((16, 16), bool)))])
    assert whole.json()["hsexport"]["warnings"] == ["the mask marks the whole picture"]
    assert server.edit(file_of(picture)).json()["hsexport"]["warnings"] == []


def turned(picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera that was held upright
    return file_of(Image.fromarray(picture), exif=exif)


KINDS = {
    "16-bit": lambda p: file_of(Image.fromarray(p[..., 0].astype(np.uint16) * 257)),
    "grey": lambda p: file_of(p[..., 0].copy()),
    "RGBA": lambda p: file_of(Image.fromarray(p).convert("RGBA")),
    "palette": lambda p: file_of(Image.fromarray(p).quantize(16)),
    "turned": turned,
    "JPEG": lambda p: file_of(p, "JPEG"),
    "WebP": lambda p: file_of(p, "WEBP"),
    "CMYK": lambda p: file_of(Image.fromarray(p).convert("CMYK"), "JPEG"),
    "1x1": lambda p: file_of(p[:1, :1].copy()),
    "wide": lambda p: file_of(np.zeros((2, 20_000, 3), np.uint8)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_every_kind_are_taken(server, session, picture, kind):
    file = KINDS[kind](picture)
    answer = server.edit(file, seed=2, schedule=SCHEDULE, strength=0.5)
    expected = session.generate("red", seed=2, schedule=SCHEDULE, strength=0.5, image=file)
    np.testing.assert_array_equal(drawn(answer), expected.image)


def bomb(side):
    """A PNG of a few bytes that says it has so many pixels."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


BAD_PICTURES = {
    "no picture": (b"hello", "is no picture that can be read"),
    "empty": (b"", "is no picture that can be read"),
    "half": (None, "is no picture that can be read"),
    "another kind": (b"GIF89a" + bytes(20), "none of PNG, JPEG, WEBP"),
    "bomb": (bomb(60_000), "pixels"),
    "large": (bomb(9_000), "pixels"),
}


@pytest.mark.parametrize("kind", BAD_PICTURES)
@pytest.mark.parametrize("name", ["image", "mask", "region_mask"])
def test_what_is_no_picture_is_one_line(server, picture, name, kind):
    data, words = BAD_PICTURES[kind]
    data = file_of(picture)[:-200] if data is None else data
    files = {"image": file_of(picture)} | {name: data}
    told(server.edit(None, files=list(files.items()), schedule=SCHEDULE), 400, f"the {name}", words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"strength": 0}, ("strength 0 lies outside 0..1",)),
        ({"strength": 1.5}, ("strength 1.5 lies outside 0..1",)),
        ({"strength": -1}, ("strength -1 lies outside",)),
        ({"strength": "NaN"}, ("strength nan",)),
        ({"strength": "much"}, ("strength:", "number")),
        ({"mask_blur": -1}, ("mask_blur -1",)),
        ({"n": 11}, ("n:", "less than or equal to 10")),
        ({"n": "[" * 9000}, ("n:",)),
        ({"seed": "9" * 60}, ("seed:",)),
        ({"size": "17x16"}, ("width 17 is not a multiple of",)),
        ({"stream": "true"}, ("stream:",)),
        ({"quality": "hd"}, ("quality:",)),
        ({"input_fidelity": "high"}, ("input_fidelity:",)),
        ({"response_format": "url"}, ("response_format:",)),
        ({"colour": "red"}, ("colour:", "Extra inputs")),
        ({"mask": "no base64!"}, ("mask:", "base64")),
        ({"prompt": b"\xff"}, ("prompt is not text",)),
    ],
)
def test_what_a_form_cannot_ask_for_is_400(server, picture, fields, words):
    told(server.edit(file_of(picture), **{"prompt": "red", **fields}), 400, *words)


def test_marks_without_a_picture_and_empty_marks_are_400(server, picture):
    none = np.zeros((16, 16), bool)
    told(server.edit(file_of(picture), files=[("mask", white(none))]), 400, "the mask marks nothing")
    text = base64.b64encode(white(MARKED)).decode()
    told(server.ask(mask=text), 400, "there is a mask, and no picture")
    told(server.ask(strength=0.5), 400, "there is a strength, and no picture")
    told(server.ask(image="no base64!"), 400, "image:", "base64")
    told(server.ask(image=7), 400, "image:", "base64")
    told(server.edit(None), 400, "image: Field required")
    told(server.edit(file_of(picture), files=[("prompt", b"red")]), 400, "prompt: it was sent twice")
    parts = [("image", ("a.png", file_of(picture))), ("prompt", ("red.txt", b"red"))]
    told(server.client.post(EDITS, files=parts), 400, "prompt: expected text, a file was sent")


FORM = {"content-type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    "body", [b"", b"--x", b"--y\r\n\r\n--y--", b"\r\n" * 500, b"--x\r\nno header\r\n\r\n1\r\n--x--\r\n", b"\0" * 500]
)
def test_what_is_no_form_is_400(server, body):
    told(server.client.post(EDITS, content=body, headers=FORM), 400)


def test_a_form_without_a_boundary_is_400(server):
    told(server.client.post(EDITS, content=b"x", headers={"content-type": "multipart/form-data"}), 400, "boundary")


def test_many_parts_are_400(server, picture):
    told(server.edit(file_of(picture), **{f"a{i}": 1 for i in range(100)}), 400, "Too many fields")
    told(server.edit(None, files=[(f"a{i}", b"") for i in range(100)]), 400, "Too many files")


def test_each_path_takes_its_own_kind_of_body(server):
    told(server.client.post(EDITS, json={"prompt": "red"}), 415, "expected multipart/form-data")
    told(server.client.post(GENERATIONS, files={"image": b""}), 415, "expected application/json")


def test_each_kind_of_body_has_its_own_bound(server):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    assert server.edit(file_of(noise)).status_code == 200  # 120 kB
    text = base64.b64encode(file_of(noise)).decode()
    told(server.ask(image=text), 413, "65536 bytes", EDITS, "--max-body-kb")
    told(server.edit(bytes(600_000)), 413, "524288 bytes", "--max-upload-kb")


def test_pages_from_elsewhere_may_send_no_form(server, picture):
    """Browsers ask nobody before they send one."""
    parts = [("image", ("a.png", file_of(picture))), ("prompt", (None, "red"))]
    told(server.client.post(EDITS, files=parts, headers={"origin": "http://evil.example"}), 403)


def test_edits_are_counted(server, picture):
    before = server.metric('hsexport_requests_total{status="200"}')
    drawn(server.edit(file_of(picture)))
    assert server.metric('hsexport_requests_total{status="200"}') == before + 1


def test_the_description_lists_the_form(server):
    route = server.client.get("/openapi.json").json()["paths"][EDITS]["post"]
    schema = route["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert schema["required"] == ["prompt", "image"] and schema["properties"]["mask"]["format"] == "binary"
    page = server.client.get("/docs").text
    assert EDITS in page and "region_mask" in page and "transparent there" in page


def test_after_all_this_it_lives(server):
    assert server.client.get("/ready").json() == {"status": "ready"}
    assert not any("Traceback" in line for line in server.log)


def test_without_the_key_no_body_is_read(tiny_bundle, picture):
    with serving(tiny_bundle, "--api-key", "secret", "--no-warm-up") as server:
        told(server.edit(file_of(picture)), 401, "Authorization: Bearer KEY")
        server.client.headers["authorization"] = "Bearer secret"
        drawn(server.edit(file_of(picture), schedule="large:2"))
