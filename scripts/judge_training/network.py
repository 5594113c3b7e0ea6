"""The judge's network: pictures (B, 128, 128, 3) uint8 to features (B, F) and one logit a name."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

FEATURES = 64
WIDTHS = (24, 48, 96, 160)  # of the stages at 32x32, 16x16, 8x8 and 4x4 places
CELL = 2  # pixels averaged along each side before the network looks


def ink_from_pictures(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (B, H, W, 3) uint8 as (B, 3, H, W) in 0..1; white paper is 0, so that zero padding is more paper."""
    return 1 - pictures.permute(0, 3, 1, 2).float() / 255


def convolution(taken: int, given: int, stride: int) -> nn.Sequential:
    """A 3x3 convolution, normalised and rectified."""
    return nn.Sequential(
        nn.Conv2d(taken, given, 3, stride, padding=1, bias=False), nn.BatchNorm2d(given), nn.ReLU(inplace=True)
    )


class Judge(nn.Module):
    """Four convolutional stages, a mean over the canvas, a layer of features, one logit for each name."""

    def __init__(self, names: int) -> None:
        super().__init__()
        stages = [convolution(3, WIDTHS[0], 2)]
        for taken, given in pairwise(WIDTHS):
            stages += [convolution(taken, given, 2), convolution(given, given, 1)]
        self.stages = nn.Sequential(*stages)
        self.features = nn.Sequential(nn.Linear(WIDTHS[-1], FEATURES, bias=False), nn.BatchNorm1d(FEATURES))
        self.names = nn.Linear(FEATURES, names)

    def forward(self, cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, F) and logits (B, names) of averaged ink (B, 3, 64, 64)."""
        features = self.features(self.stages(cells).mean(dim=(2, 3)))
        return features, self.names(features)


class PictureJudge(nn.Module):
    """The judge as it is exported: from pictures as files hold them."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()
        self.judge = judge

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, F) and logits (B, names) of pictures (B, 128, 128, 3) uint8."""
        return self.judge(F.avg_pool2d(ink_from_pictures(pictures), CELL))
