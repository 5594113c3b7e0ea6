import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.embeddings import PatchEmbed
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from hypothesis import given
from hypothesis import strategies as st

from hsexport.families.sd3.weights import centre_rows
from hsruntime.facts import Positions, Sigmas
from hsruntime.loop.flow import grid_positions, latents_from_tokens, noise_levels, seeded_noise, tokens_from_latents
from hsruntime.schedule.presets import schedule_from_text

SIDES = st.integers(1, 6)
TOKENS = 4096


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", range(1, 51))
def test_sigmas_equal_diffusers(shift, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    pair = Sigmas(rule="flow-match-euler", levels=1000, shift=shift)
    sigmas = noise_levels(pair, schedule_from_text(f"large:{steps}"), TOKENS)
    assert sigmas.dtype == np.float32
    # Two units in the last place of a float32 near 1: the two orders of computing round differently.
    np.testing.assert_allclose(sigmas, scheduler.sigmas.numpy(), rtol=0, atol=2e-7)


@pytest.mark.parametrize("tokens", [1, 1024, 4096, 4300, 4301, 16384])
@pytest.mark.parametrize("steps", [1, 4, 10, 28, 50, 200])
def test_sigmas_that_follow_from_tokens_and_steps_equal_the_pipelines(tokens, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    spaced = np.linspace(1.0, 1 / steps, steps)
    scheduler.set_timesteps(steps, sigmas=spaced, mu=compute_empirical_mu(tokens, steps))
    pair = Sigmas(rule="empirical-mu", levels=1000, shift=1.0)
    found = noise_levels(pair, schedule_from_text(f"large:{steps}"), tokens)
    np.testing.assert_allclose(found, scheduler.sigmas.numpy(), rtol=0, atol=4e-7)
    asked = noise_levels(pair, schedule_from_text(f"large:{steps};shift=2"), tokens)
    np.testing.assert_allclose(asked[:-1], 2 * spaced / (1 + spaced), rtol=0, atol=4e-7)


@given(b=SIDES, c=SIDES, h=SIDES, w=SIDES, p=st.integers(1, 4))
def test_tokens_turn_back_into_their_latents(b, c, h, w, p):
    latents = np.random.default_rng(0).standard_normal((b, c, h * p, w * p), np.float32)
    tokens = tokens_from_latents(latents, p)
    assert tokens.shape == (b, h * w, p * p * c)
    np.testing.assert_array_equal(latents_from_tokens(tokens, p, (h, w)), latents)


@given(c=SIDES, h=SIDES, w=SIDES, p=st.integers(1, 4), data=st.data())
def test_token_is_laid_out_row_column_channel(c, h, w, p, data):
    latents = np.arange(c * h * p * w * p, dtype=np.float32).reshape(1, c, h * p, w * p)
    y, x, channel = (data.draw(st.integers(0, top - 1)) for top in (h * p, w * p, c))
    token, place = (y // p) * w + x // p, ((y % p) * p + x % p) * c + channel
    assert tokens_from_latents(latents, p)[0, token, place] == latents[0, channel, y, x]


@given(size=st.integers(1, 13), data=st.data())
def test_positions_are_the_rows_that_diffusers_crops(size, data):
    rows, columns = data.draw(st.integers(1, size)), data.draw(st.integers(1, size))
    h, w = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    embed = PatchEmbed(height=8, width=8, patch_size=2, in_channels=1, embed_dim=4, pos_embed_max_size=size)
    embed.pos_embed = torch.arange(size * size * 4.0).reshape(1, size * size, 4)
    table = Positions(origin="centre", table_size=size, rows=rows, columns=columns)
    kept = torch.from_numpy(centre_rows(embed.pos_embed.numpy(), table))
    positions = grid_positions(table, (h, w))
    assert positions.dtype == np.int32
    assert positions.min() >= 0
    expected = embed.cropped_pos_embed(2 * h, 2 * w)[0]
    assert torch.equal(kept[torch.from_numpy(positions)], expected)


def test_picture_of_a_batch_has_the_noise_of_its_own_seed():
    batch = seeded_noise((4, 5, 6), (7, 3, 8))
    for picture, seed in zip(batch, (7, 3, 8), strict=True):
        np.testing.assert_array_equal(picture, seeded_noise((4, 5, 6), [seed])[0])
    assert not np.array_equal(batch[0], batch[1])


def test_noise_is_standard_normal_float32():
    noise = seeded_noise((16, 64, 64), [0])
    assert noise.dtype == np.float32
    # 65536 draws: the standard error of the mean is 0.004, that of the deviation 0.003.
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
