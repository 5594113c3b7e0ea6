"""The VAE stage: a small AutoencoderKL, 128x128x3 to 16x16x16 and back."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from rich.progress import Progress

from . import checkpoint
from .progress import tell_step
from .schedule import batch_at, generator_at, learning_rate_scale

BATCH = 16
PEAK_RATE = 2e-3
KL_WEIGHT = 2e-6
EDGE_WEIGHT = 0.5


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


def fit_scaling(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """Sets shift and scaling so that latents have mean 0 and deviation 1; returns those latents (count, 16, 16, 16)."""
    with torch.inference_mode():
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in pictures.split(32)])
    shift, scale = latents.mean().item(), 1 / latents.std().item()
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    return (latents - shift) * scale


def train_vae(pictures: torch.Tensor, work: Path, steps: int, seed: int, progress: Progress) -> AutoencoderKL:
    """Trains (or goes on training) the VAE on pictures (count, 3, H, W) in -1..1."""
    torch.manual_seed(seed)
    vae = new_vae().to(pictures.device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(vae.parameters(), PEAK_RATE, weight_decay=0.0, fused=True)
    path, first = work / "vae.pt", 0
    if state := checkpoint.load(path):
        vae.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    task = progress.add_task("vae", total=steps, completed=first, note="")
    for step in range(first, steps):
        for group in optimiser.param_groups:
            group["lr"] = PEAK_RATE * learning_rate_scale(step, steps)
        batch = pictures[batch_at(seed, step, BATCH, len(pictures))].contiguous(memory_format=torch.channels_last)
        loss = vae_loss(vae, batch, generator_at(seed, step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        tell_step(progress, task, f"loss {loss.item():.4f}")
        if (step + 1) % 100 == 0 or step + 1 == steps:
            checkpoint.save(path, {"model": vae.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1})
    return vae.eval()
