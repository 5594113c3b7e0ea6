"""Pictures that begin from others, beside diffusers' own two pipelines for it: the same noise gives the same pixels."""

from importlib.resources import files
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Img2ImgPipeline, StableDiffusion3InpaintPipeline
from diffusers.pipelines.stable_diffusion_3 import (
    pipeline_stable_diffusion_3_img2img,
    pipeline_stable_diffusion_3_inpaint,
)
from PIL import Image
from test_pipeline_parity import NEGATIVE, PROMPTS, built
from tiny_pair import T5_LENGTH, make_pair

from hsruntime import Session

DEMO = Path(str(files("hsexport"))) / "demo"
STRENGTHS = (0.3, 0.6, 1.0)
MODULES = {
    StableDiffusion3Img2ImgPipeline: pipeline_stable_diffusion_3_img2img,
    StableDiffusion3InpaintPipeline: pipeline_stable_diffusion_3_inpaint,
}


def picture(size, seed=3):
    """Blots of colour (H, W, 3), with some of everything that a VAE sees."""
    rough = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return np.asarray(Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC))


def middle(size, unit):
    """A mask (H, W) of whole latents, of `unit` pixels each."""
    mask = np.zeros(size[::-1], np.uint8)
    top, bottom, left = (side // unit * unit for side in (size[1] // 4, size[1] // 2, size[0] // 2))
    mask[top:bottom, left:] = 255
    return mask


class Beside:
    """One of diffusers' pipelines and a session of the same pair."""

    def __init__(self, kind, large, session, t5_length, monkeypatch):
        self.session, self.t5_length = session, t5_length
        self.pipeline = kind.from_pretrained(large, torch_dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        # The pipelines draw the posterior and the noise; both sides are given the same.
        monkeypatch.setattr(MODULES[kind], "randn_tensor", lambda *_, **__: torch.from_numpy(self.noise))
        monkeypatch.setattr(MODULES[kind], "retrieve_latents", lambda found, **_: found.latent_dist.mode())

    def decoded(self, latents):
        """As two of the three pipelines do it; that for inpainting leaves the VAE's shift out (diffusers 0.42)."""
        vae = self.pipeline.vae
        pictures = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
        return (
            (self.pipeline.image_processor.postprocess(pictures.detach(), output_type="np") * 255)
            .round()
            .astype(np.uint8)
        )

    def differences(self, size, strength, guidance, steps=6, mask=None):
        """Of pixels, in steps of 1/255: (B, H, W, 3)."""
        latent = self.session.manifest.facts.latent
        shape = (len(PROMPTS), latent.channels, size[1] // latent.vae_scale, size[0] // latent.vae_scale)
        self.noise = np.random.default_rng(5).standard_normal(shape, np.float32)
        image = picture(size)
        masks = {} if mask is None else {"mask_image": Image.fromarray(mask)}
        theirs = self.pipeline(
            PROMPTS,
            image=Image.fromarray(image),
            negative_prompt=[NEGATIVE] * len(PROMPTS),
            num_inference_steps=steps,
            guidance_scale=guidance,
            strength=strength,
            width=size[0],
            height=size[1],
            max_sequence_length=self.t5_length,
            output_type="latent",
            **masks,
        ).images
        ours = self.session.generate(
            PROMPTS,
            image=image,
            mask=mask,
            strength=strength,
            negative_prompt=NEGATIVE,
            latents=self.noise,
            guidance_scale=guidance,
            schedule=f"large:{steps}",
        ).images
        expected = self.decoded(theirs)
        assert expected.std() > 5, "a flat picture would agree with anything"
        assert np.abs(expected.astype(int) - image).max() > 5, "nothing was drawn"
        if mask is not None:
            assert np.array_equal(ours[:, mask == 0], np.broadcast_to(image, ours.shape)[:, mask == 0])
        return np.abs(ours.astype(int) - expected)


CASES = [*product(((16, 16), (24, 12)), STRENGTHS, (4.0, 1.0))]


def test_image_to_image_equals_diffusers(tiny_pair_dirs, tiny_bundle, monkeypatch):
    with Session.open(tiny_bundle) as session:
        beside = Beside(StableDiffusion3Img2ImgPipeline, tiny_pair_dirs[0], session, T5_LENGTH, monkeypatch)
        for case in CASES:
            assert beside.differences(*case).max() <= 1, case


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["ort-cpu", "openvino"])
def test_pair_shaped_like_sd35_equals_diffusers(tmp_path, monkeypatch, backend):
    """16 channels, without which diffusers' pipeline keeps nothing of the picture.

    Inside the mask, where diffusers' pixels are drawn; outside ours are the original's.
    """
    large, small = make_pair(tmp_path / "pair", channels=16, dual_layers=(0,), vae_attention=False)
    bundle = built(large, small, tmp_path / "bundle", tmp_path / "cache", backend=backend)
    with Session.open(bundle) as session:
        for kind in MODULES:
            beside = Beside(kind, large, session, T5_LENGTH, monkeypatch)
            for size, *case in CASES:
                mask = middle(size, 2) if kind is StableDiffusion3InpaintPipeline else None
                found = beside.differences(size, *case, mask=mask)
                assert (found if mask is None else found[:, mask > 0]).max() <= 1, (kind, size, *case)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODULES)
def test_demo_pair_equals_diffusers(demo_bundle, monkeypatch, kind):
    with Session.open(demo_bundle) as session:
        beside = Beside(kind, DEMO / "large", session, 16, monkeypatch)
        for size, strength, guidance in [((128, 128), 0.3, 3.5), ((160, 96), 0.6, 3.5), ((128, 128), 1.0, 1.0)]:
            mask = middle(size, 8) if kind is StableDiffusion3InpaintPipeline else None
            found = beside.differences(size, strength, guidance, 8, mask)
            assert (found if mask is None else found[:, mask > 0]).max() <= 1, (size, strength)
