"""Pictures while training: Euler with classifier-free guidance, in torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from PIL import Image

from .schedule import generator_at
from .text import TextSide

STEPS = 20
GUIDANCE = 3.0
SHIFT = 3.0


@torch.inference_mode()
def sample(
    model: SD3Transformer2DModel, text_side: TextSide, vae: AutoencoderKL, prompts: list[str], seed: int
) -> np.ndarray:
    """Pictures (B, 128, 128, 3) uint8 of the prompts."""
    device = next(model.parameters()).device
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    scheduler.set_timesteps(STEPS)
    text, pooled = text_side.encode([i.to(device) for i in text_side.ids([""] * len(prompts) + prompts)])
    x = torch.randn((len(prompts), 16, 16, 16), generator=generator_at(seed, 0)).to(device)
    for t in scheduler.timesteps:
        v = model(torch.cat([x, x]), text, pooled, t.expand(2 * len(prompts)).to(device), return_dict=False)[0]
        plain, told = v.chunk(2)
        x = scheduler.step(plain + GUIDANCE * (told - plain), t, x, return_dict=False)[0]
    decoded = vae.decode(x / vae.config.scaling_factor + vae.config.shift_factor).sample
    return ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def save_sheet(path: Path, pictures: np.ndarray, columns: int) -> None:
    """Lays pictures out in a grid, in reading order."""
    rows = -(-len(pictures) // columns)
    side = pictures.shape[1]
    sheet = np.full((rows * side, columns * side, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = (i // columns) * side, (i % columns) * side
        sheet[top : top + side, left : left + side] = picture
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)
