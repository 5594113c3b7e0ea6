import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from hsruntime.picture.decode import picture_bytes
from hsruntime.picture.picture import contact_sheet, region_overlay, save_png

RECIPE = {"prompt": "émoji 🍎", "seed": "3"}


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)


def test_bytes_are_rounded_as_diffusers_rounds():
    decoded = np.linspace(0, 1, 3000, dtype=np.float32).reshape(1, 50, 20, 3)
    theirs = np.asarray(VaeImageProcessor.numpy_to_pil(decoded)[0])
    np.testing.assert_array_equal(picture_bytes(decoded)[0], theirs)


def test_png_holds_the_picture_and_its_recipe(picture, tmp_path):
    save_png(tmp_path / "a.png", picture, RECIPE)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
        assert image.text == RECIPE


def test_same_picture_and_recipe_give_the_same_bytes(picture, tmp_path):
    for name in ("a.png", "b.png"):
        save_png(tmp_path / name, picture, RECIPE)
    save_png(tmp_path / "c.png", picture, RECIPE | {"seed": "4"})
    first, same, other = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert first == same != other


def test_overlay_keeps_active_pixels_inside_the_border_and_fades_the_rest(picture):
    mask = np.zeros((2, 3), bool)
    mask[:, 1] = True
    overlay = region_overlay(picture, mask.ravel(), (2, 3))
    assert overlay.dtype == np.uint8
    np.testing.assert_array_equal(overlay[:, 9:15], picture[:, 9:15])
    for column in (8, 15):
        assert (overlay[:, column] == (230, 0, 90)).all()
    for cached in (overlay[:, :8], overlay[:, 16:]):
        assert (cached == cached[..., :1]).all()
        assert cached.min() >= 150


@pytest.mark.parametrize("active", [True, False])
def test_overlay_of_one_kind_of_token_has_no_border(picture, active):
    overlay = region_overlay(picture, np.full(6, active), (2, 3))
    assert not (overlay == (230, 0, 90)).all(axis=-1).any()
    assert np.array_equal(overlay, picture) == active


def test_contact_sheet_shows_every_picture_once():
    colours = {"large": [(250, 0, 0), (0, 250, 0)], "small": [(0, 0, 250), (250, 250, 0)]}
    columns = {name: [np.full((16, 24, 3), c, np.uint8) for c in cells] for name, cells in colours.items()}
    sheet = np.asarray(contact_sheet(columns, ["seed 0", "seed 1"]))
    for cells in colours.values():
        for colour in cells:
            assert (sheet == colour).all(axis=-1).sum() == 16 * 24
