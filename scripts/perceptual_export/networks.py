"""LPIPS (Zhang et al. 2018, arXiv 1801.03924) and ST-LPIPS (Ghildyal and Liu 2022, arXiv 2207.13686), both on AlexNet.

Written anew from the papers and the weights' shapes. ST-LPIPS's own package imports torchvision, IPython, torchsummary,
and its blurred downsampling is under a licence for non-commercial use; its weights are under BSD-2-Clause.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

PADDING = (2, 2, 1, 1, 1)  # of AlexNet's five convolutions
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation, of colours in -1..1."""
BLUR = (1.0, 2.0, 1.0)  # binomial, along each side
BLUR_PADDING = (2, 2, 2, 2)  # reflected
TINY = 1e-10


class Perceptual(nn.Module):
    """Distances (B,) float32, 0 for equal pictures, of two times B pictures (B, H, W, 3) uint8.

    Weights are kept in fp16, half the file, and used in fp32.
    """

    convolutions: tuple[str, ...]
    """Where the convolution of each of the five levels lies in the weights."""
    stride: int
    """Of the first one; the others have none."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        for level, name in enumerate(self.convolutions):
            self.register_buffer(f"weight_{level}", weights[f"{name}.weight"].half())
            self.register_buffer(f"bias_{level}", weights[f"{name}.bias"])
            self.register_buffer(f"importance_{level}", weights[f"lin{level}.model.1.weight"])

    def forward(self, pictures: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        """Summed over levels: the mean over places of squared differences of directions, weighed by channel."""
        distance = torch.zeros(())
        for level, sides in enumerate(zip(self.levels(pictures), self.levels(references), strict=True)):
            first, second = (x / (x.square().sum(dim=1, keepdim=True).sqrt() + TINY) for x in sides)
            weighed = (first - second).square() * getattr(self, f"importance_{level}")
            distance = distance + weighed.sum(dim=1).mean(dim=(1, 2))
        return distance

    def levels(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """What the five convolutions see, rectified: (B, C, h, w) each."""
        colours = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
        x = (colours - torch.tensor(SHIFT).view(3, 1, 1)) / torch.tensor(SCALE).view(3, 1, 1)
        found = []
        for level, padding in enumerate(PADDING):
            weight, bias = getattr(self, f"weight_{level}").float(), getattr(self, f"bias_{level}")
            if level in (1, 2):
                x = self.pooled(x)
            x = F.conv2d(x, weight, bias, self.stride if level == 0 else 1, padding)
            x = F.relu(self.first(x) if level == 0 else x)
            found.append(x)
        return found

    def first(self, x: torch.Tensor) -> torch.Tensor:
        """What comes between the first convolution (B, 64, h, w) and its rectifier."""
        return x

    @abstractmethod
    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        """The greatest of 3x3 places, at about every second place of each side."""


class Lpips(Perceptual):
    """LPIPS; sides from 31 pixels."""

    convolutions = tuple(f"features.{n}" for n in (0, 3, 6, 8, 10))
    stride = 4

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        """AlexNet's own."""
        return F.max_pool2d(x, 3, stride=2)


class ShiftTolerant(Perceptual):
    """ST-LPIPS; sides from 21 pixels. Every second place is kept only after blurring."""

    convolutions = tuple(f"net.slice{n}" for n in ("1.0", "2.5", "3.9", "4.11", "5.13"))
    stride = 1

    def first(self, x: torch.Tensor) -> torch.Tensor:
        """Half the places of each side, in place of the convolution's stride."""
        return halved(x)

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        """The greatest at every place, then half of these."""
        return halved(F.max_pool2d(x, 3, stride=1))


def halved(x: torch.Tensor) -> torch.Tensor:
    """Blurs (B, C, h, w) and keeps every second place of each side: (B, C, (h + 1) // 2 + 1, (w + 1) // 2 + 1)."""
    row = torch.tensor(BLUR)
    kernel = torch.outer(row, row) / row.sum() ** 2
    padded = F.pad(x, BLUR_PADDING, mode="reflect")
    return F.conv2d(padded, kernel.expand(x.shape[1], 1, -1, -1), stride=2, groups=x.shape[1])
