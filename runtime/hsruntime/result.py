"""What a session hands back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hsruntime.schedule.schedule import Schedule


@dataclass(frozen=True)
class SegmentTime:
    """One segment as it ran."""

    mode: str
    steps: int
    seconds: float


@dataclass(frozen=True)
class Result:
    """Pictures and how they came about."""

    images: np.ndarray  # (B, H, W, 3) uint8
    latents: np.ndarray  # (B, C, h, w) float32, as the loop left them for the VAE
    region: np.ndarray | None  # (B, N) bool, the last one chosen; None if the schedule has none
    grid: tuple[int, int]  # (h, w) in tokens
    schedule: Schedule
    segments: tuple[SegmentTime, ...]
    seconds: float
    """From the call to the pictures: text, loop and decoding."""

    @property
    def image(self) -> np.ndarray:
        """The first picture (H, W, 3)."""
        return self.images[0]

    @property
    def loop_seconds(self) -> float:
        """The denoising loop alone."""
        return sum(s.seconds for s in self.segments)
