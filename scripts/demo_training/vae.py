"""The VAE stage: a small AutoencoderKL, 128x128x3 to 16x16x16 and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from rich.progress import Progress
from torch import nn

from . import checkpoint
from .progress import tell_step
from .schedule import batch_at, generator_at, learning_rate_scale

BATCH = 16
PEAK_RATE = 2e-3
KL_WEIGHT = 2e-6
EDGE_WEIGHT = 0.5
DECODER_NOISE = 0.03  # of the latents' deviation


def new_vae() -> AutoencoderKL:
    """The SD3 VAE's shape at a fiftieth of its size: no quantisation convolutions, 16 latent channels, f = 8."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=128,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def edges(pictures: torch.Tensor) -> torch.Tensor:
    """Differences between neighbours: what an absolute loss alone leaves blurred."""
    across = pictures[..., :, 1:] - pictures[..., :, :-1]
    down = pictures[..., 1:, :] - pictures[..., :-1, :]
    return torch.cat([across.flatten(1), down.flatten(1)], dim=1)


def vae_loss(vae: AutoencoderKL, pictures: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    """Absolute error of pictures (B, 3, H, W) in -1..1 and of their edges, and a little KL."""
    with torch.autocast(pictures.device.type, torch.bfloat16):
        posterior = vae.encode(pictures).latent_dist
        draw = torch.randn(posterior.mean.shape, generator=noise).to(pictures.device)
        decoded = vae.decode(posterior.mean + posterior.std * draw).sample
    decoded = decoded.float()
    error = F.l1_loss(decoded, pictures) + EDGE_WEIGHT * F.l1_loss(edges(decoded), edges(pictures))
    return error + KL_WEIGHT * posterior.kl().float().mean()


def latents_of(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """Means of the posteriors (count, 16, 16, 16), as the encoder answers them."""
    with torch.inference_mode():
        return torch.cat([vae.encode(part).latent_dist.mean for part in pictures.split(32)]).clone()


def scaled(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """As the transformers see them."""
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor


def fit_scaling(vae: AutoencoderKL, latents: torch.Tensor) -> None:
    """Sets shift and scaling so that scaled latents have mean 0 and deviation 1."""
    vae.register_to_config(shift_factor=latents.mean().item(), scaling_factor=1 / latents.std().item())


def train_vae(pictures: torch.Tensor, work: Path, steps: int, seed: int, progress: Progress) -> AutoencoderKL:
    """Trains (or goes on training) the VAE on pictures (count, 3, H, W) in -1..1."""
    torch.manual_seed(seed)
    vae = new_vae().to(pictures.device, memory_format=torch.channels_last)

    def loss(step: int) -> torch.Tensor:
        return vae_loss(vae, _batch(pictures, seed, step), generator_at(seed, step))

    _train("vae", vae, loss, work, steps, progress)
    return vae.eval()


def train_decoder(
    vae: AutoencoderKL, pictures: torch.Tensor, work: Path, steps: int, seed: int, progress: Progress
) -> None:
    """Trains the decoder alone, longer: latents, and what transformers know of them, stay as they are.

    They come with a little noise, as a transformer's do.
    """
    latents = latents_of(vae, pictures)
    deviation = DECODER_NOISE * latents.std()

    def loss(step: int) -> torch.Tensor:
        picked = latents[batch_at(seed, step, BATCH, len(latents))]
        noise = torch.randn(picked.shape, generator=generator_at(seed, step)).to(latents.device)
        with torch.autocast(pictures.device.type, torch.bfloat16):
            decoded = vae.decode(picked + deviation * noise).sample
        return decoder_loss(decoded.float(), _batch(pictures, seed, step))

    vae.to(memory_format=torch.channels_last)
    _train("decoder", vae.decoder, loss, work, steps, progress)


def decoder_loss(decoded: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Absolute and squared error of pictures, and the absolute one of their edges."""
    error = F.l1_loss(decoded, pictures) + F.mse_loss(decoded, pictures)
    return error + EDGE_WEIGHT * F.l1_loss(edges(decoded), edges(pictures))


def _batch(pictures: torch.Tensor, seed: int, step: int) -> torch.Tensor:
    return pictures[batch_at(seed, step, BATCH, len(pictures))].contiguous(memory_format=torch.channels_last)


def _train(
    name: str, trained: nn.Module, loss_at: Callable[[int], torch.Tensor], work: Path, steps: int, progress: Progress
) -> None:
    optimiser = torch.optim.AdamW(trained.parameters(), PEAK_RATE, weight_decay=0.0, fused=True)
    path, first = work / f"{name}.pt", 0
    if state := checkpoint.load(path):
        trained.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    task = progress.add_task(name, total=steps, completed=first, note="")
    for step in range(first, steps):
        for group in optimiser.param_groups:
            group["lr"] = PEAK_RATE * learning_rate_scale(step, steps)
        loss = loss_at(step)
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        tell_step(progress, task, f"loss {loss.item():.4f}")
        if (step + 1) % 100 == 0 or step + 1 == steps:
            saved = {"model": trained.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            checkpoint.save(path, saved)
