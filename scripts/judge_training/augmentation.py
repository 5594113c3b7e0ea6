"""Pictures as a model might draw them: anywhere, another size, off in colour, soft, noisy, with a piece gone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from demo_training.corpus import PICTURE_SIZE

from .network import CELL

REACH = 3  # cells to each side that a blur looks at
COARSE = 8  # cells along the side of one patch of coarse noise


@dataclass(frozen=True)
class Strengths:
    """Upper ends of what is drawn uniformly for each picture; lengths in cells of the averaged picture."""

    scale: float = 0.15
    over_the_edge: float = 0.06  # of the canvas
    gain: float = 0.12
    blur: float = 1.2
    softness: float = 1.0
    noise: float = 0.08
    coarse_noise: float = 0.08
    cutout: int = 14
    cutout_share: float = 0.3


def uniform(source: torch.Generator, low: float, high: float, *shape: int) -> torch.Tensor:
    """Numbers from low..high."""
    return low + (high - low) * torch.rand(shape, generator=source)


def placed(ink: torch.Tensor, source: torch.Generator, strengths: Strengths) -> torch.Tensor:
    """Pictures (B, 3, side, side) on canvases (B, 3, 128, 128), each at its own place and size."""
    count, side = ink.shape[0], ink.shape[2]
    share = side / PICTURE_SIZE * (1 + uniform(source, -strengths.scale, strengths.scale, count, 1))
    room = 1 - share + strengths.over_the_edge
    centre = room * uniform(source, -1, 1, count, 2)
    theta = torch.zeros(count, 2, 3)
    theta[:, :, :2] = torch.eye(2) / share[:, :, None]
    theta[:, :, 2] = -centre / share
    grid = F.affine_grid(theta, [count, 3, PICTURE_SIZE, PICTURE_SIZE], align_corners=False)
    return F.grid_sample(ink, grid, align_corners=False)


def blurred(cells: torch.Tensor, deviations: torch.Tensor) -> torch.Tensor:
    """Each picture of (B, 3, h, w) under a Gaussian of its own deviation (B,), in cells."""
    count, channels, height, width = cells.shape
    at = torch.arange(-REACH, REACH + 1)
    kernels = torch.softmax(-(at**2) / (2 * deviations.clamp(min=0.1)[:, None] ** 2), dim=1)
    kernels = kernels.repeat_interleave(channels, dim=0)[:, None, None]
    flat = cells.reshape(1, count * channels, height, width)
    flat = F.conv2d(flat, kernels, padding=(0, REACH), groups=count * channels)
    flat = F.conv2d(flat, kernels.transpose(2, 3), padding=(REACH, 0), groups=count * channels)
    return flat.reshape(cells.shape)


def softened(cells: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Each picture moved by its amount (B,) towards its half resolution, as a VAE loses detail."""
    half = F.interpolate(F.avg_pool2d(cells, 2), scale_factor=2, mode="bilinear", align_corners=False)
    return torch.lerp(cells, half, amounts[:, None, None, None])


def cut(cells: torch.Tensor, source: torch.Generator, strengths: Strengths) -> torch.Tensor:
    """A rectangle of paper over some of the pictures."""
    count, _, height, width = cells.shape
    sides = torch.randint(4, strengths.cutout + 1, (count, 2), generator=source)
    starts = (torch.rand(count, 2, generator=source) * torch.tensor([height, width])).long() - sides // 2
    rows, columns = torch.arange(height)[None], torch.arange(width)[None]
    in_rows = (rows >= starts[:, :1]) & (rows < (starts + sides)[:, :1])
    in_columns = (columns >= starts[:, 1:]) & (columns < (starts + sides)[:, 1:])
    chosen = torch.rand(count, 1, 1, generator=source) < strengths.cutout_share
    gone = in_rows[:, :, None] & in_columns[:, None] & chosen
    return cells.masked_fill(gone[:, None], 0)


def augmented(ink: torch.Tensor, source: torch.Generator, strengths: Strengths) -> torch.Tensor:
    """Averaged ink (B, 3, 64, 64) of new views of pictures (B, 3, side, side)."""
    count = ink.shape[0]
    cells = F.avg_pool2d(placed(ink, source, strengths), CELL)
    cells = cells * (1 + uniform(source, -strengths.gain, strengths.gain, count, 3, 1, 1))
    cells = blurred(cells, uniform(source, 0, strengths.blur, count))
    cells = softened(cells, uniform(source, 0, strengths.softness, count))
    cells = cut(cells, source, strengths)
    coarse = torch.randn(count, 3, cells.shape[2] // COARSE, cells.shape[3] // COARSE, generator=source)
    coarse = F.interpolate(coarse, size=cells.shape[2:], mode="bilinear", align_corners=False)
    fine = torch.randn(cells.shape, generator=source)
    noise = uniform(source, 0, strengths.noise, count, 1, 1, 1) * fine
    return cells + noise + uniform(source, 0, strengths.coarse_noise, count, 1, 1, 1) * coarse
