"""Pictures drawn after others, and inpainting, beside diffusers' own pipelines of FLUX.2."""

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinInpaintPipeline, Flux2KleinPipeline
from diffusers.pipelines.flux2 import pipeline_flux2_klein_inpaint
from PIL import Image
from tiny_flux2 import TEXT_LENGTH

from hsruntime import Session
from hsruntime.request import RequestError

PROMPTS = ["a red apple", "an old teapot"]


def picture(width, height, seed=3):
    """Blots of colour (H, W, 3)."""
    rough = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC))


def noise_for(width, height):
    return np.random.default_rng(5).standard_normal((len(PROMPTS), 16, height // 4, width // 4), np.float32)


@pytest.fixture(scope="module")
def session(flux2_bundle):
    with Session.open(flux2_bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def pipelines(flux2_dirs):
    found = {}
    for role, folder in zip(("large", "small"), flux2_dirs, strict=True):
        found[role] = Flux2KleinPipeline.from_pretrained(folder, dtype=torch.float32)
        found[role].set_progress_bar_config(disable=True)
    return found


ONE, TWO = picture(64, 72), picture(79, 66, seed=9)  # the second is cut to whole tokens


@pytest.mark.parametrize("role", ["large", "small"])
@pytest.mark.parametrize(
    ("references", "size", "guidance"),
    [((ONE,), (32, 32), 4.0), ((ONE, TWO), (48, 24), 4.0), ((TWO,), (16, 40), 1.0)],
)
def test_pixels_equal_diffusers(session, pipelines, role, references, size, guidance):
    (width, height), noise = size, noise_for(*size)
    theirs = pipelines[role](
        image=[Image.fromarray(each) for each in references],
        prompt=PROMPTS,
        num_inference_steps=6,
        guidance_scale=guidance,
        latents=torch.from_numpy(noise),
        width=width,
        height=height,
        max_sequence_length=TEXT_LENGTH,
        output_type="np",
    ).images
    given = dict(zip(("reference", "reference_2"), references, strict=False))
    asked = {"latents": noise, "guidance_scale": guidance, "schedule": f"{role}:6"}
    expected = (theirs * 255).round().astype(np.uint8)
    assert expected.std() > 5, "a flat picture would agree with anything"
    assert np.abs(session.generate(PROMPTS, **asked, **given).images.astype(int) - expected).max() <= 1
    assert np.abs(session.generate(PROMPTS, **asked).images.astype(int) - expected).max() > 5, "it is looked at"


@pytest.mark.parametrize(("strength", "guidance"), [(0.3, 4.0), (0.6, 1.0), (1.0, 4.0)])
def test_inpainting_equals_diffusers(session, flux2_dirs, strength, guidance, monkeypatch):
    """The pipeline draws after the picture that it changes."""
    image, noise = picture(64, 72), noise_for(64, 72)
    mask = np.zeros((72, 64), np.uint8)
    mask[16:40, 24:64] = 255
    pipeline = Flux2KleinInpaintPipeline.from_pretrained(flux2_dirs[0], dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr(pipeline_flux2_klein_inpaint, "randn_tensor", lambda *_, **__: torch.from_numpy(noise))
    monkeypatch.setattr(pipeline_flux2_klein_inpaint, "retrieve_latents", lambda found, **_: found.latent_dist.mode())
    theirs = pipeline(
        image=Image.fromarray(image),
        mask_image=Image.fromarray(mask),
        prompt=PROMPTS,
        strength=strength,
        num_inference_steps=6,
        guidance_scale=guidance,
        width=64,
        height=72,
        max_sequence_length=TEXT_LENGTH,
        output_type="np",
    ).images
    asked = {"image": image, "mask": mask, "strength": strength, "reference": image, "schedule": "large:6"}
    ours = session.generate(PROMPTS, latents=noise, guidance_scale=guidance, **asked).images
    inside = mask == 255
    expected = (theirs * 255).round().astype(np.uint8)
    assert np.abs(expected.astype(int) - image)[:, inside].max() > 5, "nothing was drawn"
    assert np.abs(ours.astype(int) - expected)[:, inside].max() <= 1
    assert np.array_equal(ours[:, ~inside], np.broadcast_to(image, ours.shape)[:, ~inside])


@pytest.mark.parametrize(
    "schedule", ["hybridstitch", "regionstitch", "ras", "taylorseer", "large:2,hybrid+held:4,small:2"]
)
def test_every_kind_of_step_draws_after_a_picture(session, schedule):
    result = session.generate("a pear", reference=ONE, schedule=schedule, steps=8 if ":" not in schedule else None)
    plain = session.generate("a pear", schedule=schedule, steps=8 if ":" not in schedule else None)
    assert result.images.shape == plain.images.shape and not np.array_equal(result.images, plain.images)
    assert result.region is None or result.region.shape == (1, 64)


def test_the_fast_way_of_inpainting_keeps_what_is_not_marked_and_draws_the_rest(session):
    image, mask = picture(64, 72), np.zeros((72, 64), np.uint8)
    mask[16:40, 24:64] = 255
    asked = {"image": image, "mask": mask, "strength": 0.9, "reference": image}
    fast, whole = (session.generate("a pear", schedule=name, steps=8, **asked) for name in ("edit", "large"))
    assert "region" in str(fast.schedule) and fast.region.sum() < fast.region.size / 2
    assert np.array_equal(fast.image[mask == 0], image[mask == 0])
    off, undrawn = (np.abs(each.astype(int) - whole.image)[mask == 255].mean() for each in (fast.image, image))
    assert off < undrawn


def test_a_region_of_everything_is_the_whole_model(session):
    whole = session.generate("a fox", reference=ONE, schedule="large:6").latents
    asked = "large:2,region:4;signal=random,ratio=1.0,reselect=1"
    region = session.generate("a fox", reference=ONE, schedule=asked).latents
    without = session.generate("a fox", schedule="large:6").latents
    # Keys and values of the reference are those of the last whole step.
    assert np.abs(region - whole).mean() < np.abs(region - without).mean() / 3


def test_a_reference_is_kept_to_the_last_digit_and_as_large_as_the_bundle_takes_it(session):
    small, large = picture(48, 60), picture(480, 600)
    assert session.generate("x", reference=small, schedule="large:2").images.shape == (1, 32, 32, 3)
    shrunk = session.generate("x", reference=large, schedule="large:2").image
    by_hand = np.asarray(Image.fromarray(large).resize((64, 80), Image.Resampling.LANCZOS))
    assert np.array_equal(shrunk, session.generate("x", reference=by_hand, schedule="large:2").image)


def test_what_cannot_be_drawn_after_is_told(session, tiny_bundle):
    with pytest.raises(RequestError, match="there are 3 references, the bundle takes 2; "):
        session.generate("x", reference=ONE, reference_2=ONE, reference_3=ONE)
    with pytest.raises(RequestError, match="the reference has 3x64 pixels, of which none make a token of 4"):
        session.generate("x", reference=ONE[:64, :3])
    with pytest.raises(RequestError, match="the reference_2 is no picture that can be read"):
        session.generate("x", reference_2=b"nothing")
    with (
        Session.open(tiny_bundle) as plain,
        pytest.raises(RequestError, match="there is a reference, the bundle takes none"),
    ):
        plain.generate("x", reference=ONE)
