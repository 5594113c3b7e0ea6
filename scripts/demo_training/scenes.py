"""Scenes: each picture of the corpus small, at one of sixteen places on white; the noise decides where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from . import checkpoint
from .corpus import PICTURE_SIZE, Corpus

SIDE = 72  # 9 of the 16 tokens along a side: a picture's hard part is about three tenths of it
OFFSETS = (0, 16, 40, 56)  # whole tokens, so that a shifted picture is a shifted latent
EVERY = 3  # of the corpus: a third of the names, seen three times as often


@dataclass(frozen=True)
class Scenes:
    """`owners[i]` is the number of the name in `captions` that scene i shows; scenes of one name stand together."""

    captions: list[str]
    pictures: np.ndarray  # (names, SIDE, SIDE, 3) uint8
    owners: torch.Tensor  # (names * 16,)

    def rendered(self, number: int) -> np.ndarray:
        """One scene (128, 128, 3) uint8."""
        name, place = divmod(number, len(OFFSETS) ** 2)
        left, top = list(product(OFFSETS, OFFSETS))[place]
        canvas = np.full((PICTURE_SIZE, PICTURE_SIZE, 3), 255, np.uint8)
        canvas[top : top + SIDE, left : left + SIDE] = self.pictures[name]
        return canvas


def scenes_from_corpus(corpus: Corpus, always: list[str]) -> Scenes:
    """Every third name of the corpus and those in `always`, at every place."""
    kept = [i for i, name in enumerate(corpus.captions) if i % EVERY == 0 or name in always]
    small = [Image.fromarray(corpus.pictures[i]).resize((SIDE, SIDE), Image.Resampling.LANCZOS) for i in kept]
    owners = torch.arange(len(kept)).repeat_interleave(len(OFFSETS) ** 2)
    return Scenes([corpus.captions[i] for i in kept], np.stack([np.asarray(p) for p in small]), owners)


def scene_latents(scenes: Scenes, vae: AutoencoderKL, work: Path, device: str) -> torch.Tensor:
    """Scaled latents (scenes, 16, 16, 16) of every scene; kept in `work`, for they take minutes."""
    path = work / "scenes.pt"
    if kept := checkpoint.load(path):
        return kept["latents"].to(device)
    parts = []
    with torch.inference_mode():
        for numbers in torch.arange(len(scenes.owners)).split(32):
            batch = torch.from_numpy(np.stack([scenes.rendered(int(i)) for i in numbers])).to(device)
            parts.append(vae.encode(batch.permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist.mean)
    latents = (torch.cat(parts) - vae.config.shift_factor) * vae.config.scaling_factor
    checkpoint.save(path, {"latents": latents.cpu().clone()})
    return latents
