"""Pictures and masks as people have them: every kind is read or refused in one line."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from hsruntime.facts import Latent, Sizes
from hsruntime.picture.original import (
    MOST_PIXELS,
    Original,
    PictureWarning,
    checked_blur,
    file_bytes,
    read_mask,
    read_picture,
    size_like,
)
from hsruntime.request import RequestError

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def saved(image, form="PNG", **options):
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, form, **options)
    return file.getvalue()


def read(data):
    return np.asarray(read_picture("image", data))


def test_a_plain_picture_keeps_its_pixels():
    assert np.array_equal(read(saved(COLOURS)), COLOURS)
    assert np.array_equal(read(saved(COLOURS, "WEBP", lossless=True)), COLOURS)


def test_16_bits_keep_their_upper_half():
    """Pillow's own conversion cuts everything above 255 off."""
    grey = np.linspace(0, 65535, 54).reshape(6, 9).astype(np.uint16)
    assert np.array_equal(read(saved(grey))[..., 0], (grey >> 8).astype(np.uint8))


def test_palettes_greys_and_single_bits_are_read():
    flat = Image.fromarray(COLOURS).quantize(8)
    assert np.array_equal(read(saved(flat)), np.asarray(flat.convert("RGB")))
    grey = Image.fromarray(COLOURS).convert("L")
    assert np.array_equal(read(saved(grey)), np.asarray(grey.convert("RGB")))
    bits = grey.convert("1")
    assert np.array_equal(read(saved(bits)), np.asarray(bits.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lies_on_white(mode):
    image = Image.fromarray(COLOURS).convert("RGBA")
    image.putalpha(Image.fromarray(np.where(np.arange(9) < 4, 0, 255).astype(np.uint8)[None].repeat(6, 0)))
    options = {}
    if mode == "P":
        image = Image.fromarray(np.zeros((6, 9), np.uint8), "P")
        image.putpalette([200, 10, 10])
        options = {"transparency": 0}
    found = read(saved(image.convert(mode), **options))
    assert (found[:, :4] == 255).all()
    assert mode == "P" or not (found[:, 4:] == 255).all()


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_camera_s_turn_is_taken_back(turn):
    turned = Image.fromarray(COLOURS)
    exif = turned.getexif()
    exif[0x0112] = turn
    found = read(saved(turned, "PNG", exif=exif))
    assert found.shape == ((6, 9, 3) if turn < 5 else (9, 6, 3))
    assert (np.array_equal(found, COLOURS)) == (turn == 1)


def bomb():
    """A PNG of a few bytes that says it has 100,000 by 100,000 pixels."""
    whole = bytearray(saved(np.zeros((1, 1), np.uint8)))
    whole[16:24] = (100_000).to_bytes(4, "big") * 2
    import zlib

    whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, "big")
    return bytes(whole)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is no picture that can be read: it is none of PNG, JPEG, WEBP"),
        (b"GIF89a" + bytes(40), "is no picture that can be read: it is none of PNG, JPEG, WEBP"),
        (saved(COLOURS, "GIF"), "is no picture that can be read: it is none of PNG, JPEG, WEBP"),
        (saved(COLOURS)[:-30], "is no picture that can be read: "),
        (saved(COLOURS, "JPEG")[:200], "is no picture that can be read: "),
        (bomb(), f"at most {MOST_PIXELS} are read|more pixels than the {MOST_PIXELS}"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_line(data, words):
    with pytest.raises(RequestError, match=f"^the image .*({words})") as caught:
        read_picture("image", data)
    assert "\n" not in str(caught.value)


def test_every_file_cut_short_or_changed_is_read_or_refused():
    """With a camera's notes in it, which Pillow reads last."""
    generator, image = np.random.default_rng(1), Image.fromarray(COLOURS)
    notes = image.getexif()
    notes[0x0112], notes[0x010E], notes[0x8769] = 6, "a description", {0x9003: "2020"}
    for form in ("PNG", "JPEG", "WEBP"):
        whole = saved(image, form, exif=notes)
        for _ in range(3000):
            broken = bytearray(whole if generator.random() < 0.7 else whole[: generator.integers(1, len(whole) + 1)])
            for place in generator.integers(len(broken), size=generator.integers(1, 4)):
                broken[place] ^= 1 << generator.integers(8)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    assert read(bytes(broken)).ndim == 3
            except RequestError as err:
                assert "\n" not in str(err)


def test_mask_is_where_it_is_bright_and_not_transparent():
    grey = np.array([[0, 127, 128, 255]], np.uint8)
    assert read_mask("mask", saved(grey), (4, 1)).tolist() == [[False, False, True, True]]
    image = Image.fromarray(np.full((1, 4), 255, np.uint8)).convert("LA")
    image.putalpha(Image.fromarray(np.array([[0, 255, 0, 255]], np.uint8)))
    assert read_mask("mask", saved(image), (4, 1)).tolist() == [[False, True, False, True]]


def test_a_mask_of_another_size_is_resampled_and_told():
    left = np.zeros((40, 80), np.uint8)
    left[:, :40] = 255
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_mask("mask", saved(left), (8, 4))
    assert np.array_equal(found, np.arange(8)[None].repeat(4, 0) < 4)
    with pytest.warns(PictureWarning, match="the mask has 80x40 pixels, the picture 8x8: it is stretched over it"):
        assert read_mask("mask", saved(left), (8, 8)).shape == (8, 8)
    with pytest.warns(PictureWarning, match="the mask has 80x40 pixels, the picture 16x8: it is stretched over it"):
        assert np.array_equal(read_mask("mask", saved(left), (8, 4), (16, 8)), found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the picture is drawn in another shape, and its mask with it
        assert read_mask("mask", saved(left), (8, 8), (80, 40)).shape == (8, 8)


def test_a_mask_of_nothing_is_refused_and_one_of_everything_told():
    with pytest.raises(RequestError, match="the mask marks nothing: no pixel of it is bright; paint white what"):
        read_mask("mask", saved(np.zeros((4, 4), np.uint8)), (4, 4))
    with pytest.warns(PictureWarning, match="the mask marks the whole picture"):
        assert read_mask("mask", saved(np.full((4, 4), 255, np.uint8)), (4, 4)).all()


def test_pixels_outside_the_mask_stay_and_the_edge_is_soft_inside_alone():
    drawn = np.zeros((32, 32), bool)
    drawn[8:24, 8:24] = True
    pixels, images = np.full((32, 32, 3), 50, np.uint8), np.full((2, 32, 32, 3), 250, np.uint8)
    hard = Original(pixels, drawn, 0.0).pasted(images)
    assert (hard[:, drawn] == 250).all() and (hard[:, ~drawn] == 50).all()
    soft = Original(pixels, drawn, 2.0).pasted(images)
    assert (soft[:, ~drawn] == 50).all()
    assert (
        (np.diff(soft[0, 15, 8:16, 0].astype(int)) >= 0).all() and soft[0, 15, 8, 0] < 100 and soft[0, 15, 15, 0] > 240
    )
    assert np.array_equal(Original(pixels, None, 2.0).pasted(images), images)


def test_a_latent_is_drawn_for_any_of_its_pixels():
    drawn = np.zeros((16, 24), bool)
    drawn[9, 17] = True
    assert np.argwhere(Original(np.zeros((16, 24, 3), np.uint8), drawn, 0).drawn_latents(8)).tolist() == [[1, 2]]


SIZES = Sizes(default=(128, 128), minimum=(64, 64), maximum=(192, 160), max_batch=1)
LATENT = Latent(channels=16, patch_size=1, vae_scale=8)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ((128, 128), (128, 128)),
        ((101, 90), (104, 88)),
        ((384, 384), (160, 160)),
        ((1, 1), (64, 64)),
        ((20_000, 300), (192, 64)),
        ((10, 20_000), (64, 160)),
        ((192, 160), (192, 160)),
    ],
)
def test_size_is_the_picture_s_as_far_as_the_bundle_draws_it(given, size):
    assert size_like(given, SIZES, LATENT) == size


def test_callers_give_bytes_paths_arrays_or_pillow_s(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(saved(COLOURS))
    for given in (saved(COLOURS), path, str(path), COLOURS, Image.fromarray(COLOURS)):
        assert np.array_equal(read(file_bytes("image", given)), COLOURS)
    assert file_bytes("image", None) is None
    with pytest.raises(RequestError, match=r"the image .*nowhere\.png cannot be read: No such file"):
        file_bytes("image", tmp_path / "nowhere.png")
    for wrong in (COLOURS.astype(np.float32), COLOURS[None], np.zeros((0, 3), np.uint8)):
        with pytest.raises(RequestError, match=r"the image is .*, expected uint8 of"):
            file_bytes("image", wrong)


@pytest.mark.parametrize("blur", [-1, float("nan"), float("inf"), 1e9])
def test_an_edge_that_is_none_is_refused(blur):
    with pytest.raises(RequestError, match=r"mask_blur .* lies outside 0\.\.1000"):
        checked_blur(blur)
