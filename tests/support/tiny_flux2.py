"""A random FLUX.2 pair of some ten thousand parameters, written by diffusers and transformers themselves."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel

from random_pairs.flux2.shapes import Qwen3Shape
from random_pairs.flux2.text_side import new_qwen3, new_qwen_tokenizer
from random_pairs.noise import randomise

CHANNELS = 4
"""Of the VAE; a token has four times as many numbers."""
TEXT_LENGTH = 80
"""Tokens of a prompt, in place of 512."""
ASKED = {
    "light": (1, 1),
    "size": (32, 32),
    "max_size": (80, 80),
    "max_sequence_length": TEXT_LENGTH,
    "references": 2,
}
"""What the pair's bundles are built with, if nothing else is asked for."""


def make_flux2_pair(directory: Path, *, distilled: bool = False, small_distilled: bool | None = None, **overrides):
    """Large and small, each a whole pipeline with a text encoder of its own width; `overrides` reach both."""
    large = make_flux2_pipeline(
        directory / "large", **{"layers": 2, "single_layers": 2, "heads": 3, **overrides}, distilled=distilled
    )
    small = {"layers": 1, "single_layers": 2, "heads": 2, "text": 8, "seed": 1, **overrides}
    small["distilled"] = distilled if small_distilled is None else small_distilled
    return large, make_flux2_pipeline(directory / "small", **small)


def make_flux2_pipeline(
    directory: Path, *, layers=2, single_layers=2, heads=2, axes=(2, 2, 2, 2), text=12, seed=0, distilled=False
) -> Path:
    """Writes a whole pipeline; the VAE is the same for all."""
    tokenizer = new_qwen_tokenizer()
    transformer = Flux2Transformer2DModel(
        in_channels=4 * CHANNELS,
        num_layers=layers,
        num_single_layers=single_layers,
        attention_head_dim=sum(axes),
        num_attention_heads=heads,
        joint_attention_dim=3 * text,
        timestep_guidance_channels=16,
        axes_dims_rope=axes,
        guidance_embeds=False,
    )
    pipeline = Flux2KleinPipeline(
        transformer=randomise(transformer, seed),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=new_flux2_vae(),
        text_encoder=randomise(new_qwen3(Qwen3Shape(text, inner=2 * text), tokenizer), seed + 10),
        tokenizer=tokenizer,
        is_distilled=distilled,
    )
    pipeline.save_pretrained(directory)
    return directory


def new_flux2_vae() -> AutoencoderKLFlux2:
    """A VAE that halves each side, its statistics far from those of noise."""
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        decoder_block_out_channels=(4, 8),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=4,
        sample_size=16,
    )
    randomise(vae, 5)
    drawn = torch.Generator().manual_seed(6)
    vae.bn.running_mean.copy_(torch.randn(4 * CHANNELS, generator=drawn))
    vae.bn.running_var.copy_(torch.rand(4 * CHANNELS, generator=drawn) + 0.5)
    return vae
