"""Perceptual distances by networks, run as engines on the CPU; `scripts/export_perceptual` writes their graphs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from hsengines.backend import Engine, get_backend
from hsengines.device import Device
from hsengines.spec import EngineSpec, TensorSpec
from hsengines.traits import DEFAULT_BACKEND

FOLDER = Path(__file__).parent
SIDES = ("B", "H", "W", 3)
SPEC = EngineSpec(
    "perceptual distance",
    (TensorSpec("pictures", "uint8", SIDES), TensorSpec("references", "uint8", SIDES)),
    (TensorSpec("distances", "float32", ("B",)),),
)


@dataclass(frozen=True)
class Perceptual:
    """A graph that looks at pictures (B, H, W, 3) uint8 and references alike and gives distances (B,) float32."""

    file: Path
    least_side: int  # pixels; of less nothing is left after the network's two poolings

    def distances(self, pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
        """Distances (count,) float64 of pictures (count, H, W, 3) uint8 to references alike: 0 for equal ones.

        Pictures with a side below the least are enlarged by a whole factor. Raises BackendUnavailable where ONNX
        Runtime is missing, EngineLoadError, DeviceError.
        """
        engine, device = _opened(self.file)
        distance = device.empty((1,), "float32")
        found = []
        for pair in zip(pictures, references, strict=True):  # one by one: it bounds the memory
            sides = zip(("pictures", "references"), map(self._enlarged, pair), strict=True)
            binding = engine.bind({name: device.upload(side[None]) for name, side in sides}, {"distances": distance})
            binding.enqueue()
            device.synchronize()
            binding.close()
            found.append(float(distance.read()[0]))
        return np.array(found, np.float64)

    def _enlarged(self, picture: np.ndarray) -> np.ndarray:
        factor = -(-self.least_side // min(picture.shape[:2]))
        return np.ascontiguousarray(picture.repeat(factor, 0).repeat(factor, 1))


STLPIPS = Perceptual(FOLDER / "stlpips.onnx", least_side=21)
"""ST-LPIPS (Ghildyal and Liu 2022, arXiv 2207.13686): its authors' weights in fp16, BSD-2-Clause (LICENSE beside)."""
LPIPS = Perceptual(FOLDER / "lpips.onnx", least_side=31)
"""LPIPS (Zhang et al. 2018, arXiv 1801.03924). Does not ship: it holds torchvision's AlexNet."""


@cache
def _opened(file: Path) -> tuple[Engine, Device]:
    backend = get_backend(DEFAULT_BACKEND)
    device = backend.device()
    return backend.load(file, SPEC, device), device
