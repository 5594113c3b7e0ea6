"""The tiny pair in diffusers' own hands, and the same pair's bundle in ours."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from published_rules import Rival
from tiny_pair import T5_LENGTH
from token_transformer import SomeTokens

from hsruntime import Session

PROMPTS = ["a red apple", "an old teapot on a table"]
NEGATIVE = "blue"
GUIDANCE = 4.0
SIZE = (24, 20)  # pixels: 6 by 5 tokens
LATENTS = (len(PROMPTS), 4, 10, 12)


@pytest.fixture(scope="session")
def session(tiny_bundle):
    with Session.open(tiny_bundle) as session:
        yield session


@pytest.fixture(scope="session")
def pair(tiny_pair_dirs):
    """Both transformers, and the pipeline that encodes and decodes for them."""
    large, small = tiny_pair_dirs
    pipeline = StableDiffusion3Pipeline.from_pretrained(large, torch_dtype=torch.float32)
    return SimpleNamespace(large=SomeTokens(large), small=SomeTokens(small), pipeline=pipeline)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def noise(seed):
    """The latents that both sides start from."""
    return np.random.default_rng(seed).standard_normal(LATENTS, np.float32)


@pytest.fixture
def rival(pair):
    """Makes a Rival: `rival(steps, seed)`."""

    def made(steps, seed):
        cond, uncond, pooled, uncond_pooled = pair.pipeline.encode_prompt(
            PROMPTS, None, None, negative_prompt=[NEGATIVE] * len(PROMPTS), max_sequence_length=T5_LENGTH
        )
        return Rival(
            pair.large,
            pair.small,
            torch.cat([uncond, cond]),
            torch.cat([uncond_pooled, pooled]),
            GUIDANCE,
            torch.from_numpy(noise(seed)),
            steps,
        )

    return made


@pytest.fixture
def pictures(pair):
    """What a rival's latents decode to, (B, H, W, 3) uint8."""

    def decoded(rival):
        vae = pair.pipeline.vae
        out = vae.decode(rival.latents / vae.config.scaling_factor + vae.config.shift_factor).sample
        return ((out.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()

    return decoded


@pytest.fixture
def ours(session, monkeypatch):
    """What our runtime makes of the same noise: `ours(schedule, steps, seed)`; the result and every region chosen."""
    import hsruntime.loop.denoise as denoise

    regions, choose = [], denoise.region_from_scores

    def watched(scores, active):
        regions.append(choose(scores, active))
        return regions[-1]

    monkeypatch.setattr(denoise, "region_from_scores", watched)

    def made(schedule, steps, seed):
        regions.clear()
        result = session.generate(
            PROMPTS,
            negative_prompt=NEGATIVE,
            latents=noise(seed),
            guidance_scale=GUIDANCE,
            schedule=schedule,
            steps=steps,
        )
        return result, [region.mask for region in regions]

    return made
