"""The judge: a network independent of the pair that names pictures, run as an engine on the CPU."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hsengines.backend import Engine, get_backend
from hsengines.device import Device
from hsengines.errors import EngineLoadError, HSError
from hsengines.spec import EngineSpec, TensorSpec
from hsengines.traits import DEFAULT_BACKEND
from hsexport.measure.prompts import PromptError, names_from

DEMO_JUDGE = Path(__file__).parents[2] / "demo" / "judge"
BATCH = 32  # pictures at once: bounds the memory


class JudgeError(HSError):
    """A folder that holds no judge, or one that does not fit the pictures."""


@dataclass(frozen=True)
class Reference:
    """Real pictures in the judge's features: mean (F,) and covariance (F, F), float64."""

    mean: np.ndarray
    covariance: np.ndarray

    @cached_property
    def root(self) -> np.ndarray:
        """The covariance's symmetric square root; rounding may have left it slightly negative somewhere."""
        values, vectors = np.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


@dataclass(frozen=True)
class Judged:
    """What the judge sees in pictures: features (count, F) and logits (count, names), float32."""

    features: np.ndarray
    logits: np.ndarray

    def places(self, own: np.ndarray) -> np.ndarray:
        """How many names the judge prefers to each picture's own, number `own[i]`; 0 is a hit."""
        scores = self.logits[np.arange(len(own)), own]
        return (self.logits > scores[:, None]).sum(axis=1)


class Judge:
    """An open judge; `names[i]` is what logit i stands for."""

    def __init__(self, engine: Engine, device: Device, reference: Reference, names: list[str]) -> None:
        self._engine, self._device = engine, device
        self.reference, self.names = reference, names

    @classmethod
    def open(cls, folder: Path, *, threads: int = 0) -> Judge:
        """Opens `judge.onnx`, `reference.npz` and the names: `captions.json` in the folder or in the one above.

        Raises JudgeError, or BackendUnavailable where ONNX Runtime is missing.
        """
        reference, names = _reference_from(folder / "reference.npz"), _names_beside(folder)
        backend = get_backend(DEFAULT_BACKEND)
        device = backend.device(threads)
        if not (folder / "judge.onnx").is_file():
            raise JudgeError(f"{folder} holds no judge.onnx", "name a folder with judge.onnx and reference.npz")
        pictures = TensorSpec("pictures", "uint8", ("B", "H", "W", 3))
        sizes = {"features": len(reference.mean), "logits": len(names)}
        spec = EngineSpec("judge", (pictures,), tuple(TensorSpec(n, "float32", ("B", s)) for n, s in sizes.items()))
        try:
            return cls(backend.load(folder / "judge.onnx", spec, device), device, reference, names)
        except EngineLoadError as err:
            raise JudgeError(err.message, "a judge takes pictures and gives features and logits") from err

    def judge(self, pictures: np.ndarray) -> Judged:
        """Features and logits of pictures (count, H, W, 3) uint8. Raises ShapeError or DeviceError."""
        parts = []
        for start in range(0, len(pictures), BATCH):
            batch = np.ascontiguousarray(pictures[start : start + BATCH])
            outputs = self._engine.spec.outputs
            answers = {t.name: self._device.empty(t.resolve({"B": len(batch)}), t.dtype) for t in outputs}
            binding = self._engine.bind({"pictures": self._device.upload(batch)}, answers)
            binding.enqueue()
            self._device.synchronize()
            binding.close()
            parts.append([answers[name].read() for name in ("features", "logits")])
        return Judged(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def close(self) -> None:
        """Frees the network."""
        self._engine.close()


def frechet(features: np.ndarray, reference: Reference) -> float:
    """Frechet distance of the Gaussians fitted to features (count, F), count at least 2, and to real pictures'.

    |m - m_r|^2 + tr C + tr C_r - 2 tr (C C_r)^(1/2) (Heusel et al. 2017); the last trace is the sum of the singular
    values of the centred features times C_r^(1/2).
    """
    found = features.astype(np.float64)
    mean = found.mean(axis=0)
    centred = (found - mean) / np.sqrt(len(found) - 1)
    shared = np.linalg.norm(centred @ reference.root, ord="nuc")
    spread = (centred**2).sum() + np.trace(reference.covariance) - 2 * shared
    return float(((mean - reference.mean) ** 2).sum() + spread)


def feature_distances(first: np.ndarray, second: np.ndarray, reference: Reference) -> np.ndarray:
    """Euclidean distance of features (count, F): (count,) float64, in units of what is typical of two real pictures.

    That is the root mean square distance of their features.
    """
    difference = first.astype(np.float64) - second.astype(np.float64)
    return np.linalg.norm(difference, axis=1) / np.sqrt(2 * np.trace(reference.covariance))


def _reference_from(file: Path) -> Reference:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            reference = Reference(arrays["mean"], arrays["covariance"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as err:
        raise JudgeError(f"{file} is no judge's reference: {err}", "it holds the arrays mean and covariance") from err
    shape = (len(reference.mean),) * 2
    if reference.covariance.shape != shape:
        raise JudgeError(f"{file}: covariance is {reference.covariance.shape}, expected {shape}")
    return reference


def _names_beside(folder: Path) -> list[str]:
    """The names that a judge knows; the demo's lie where the pair lies."""
    found = [f for f in (folder / "captions.json", folder.parent / "captions.json") if f.is_file()]
    if not found:
        raise JudgeError(f"{folder} holds no captions.json", "put the judge's names there, a list in JSON")
    try:
        return names_from(found[0])
    except PromptError as err:
        raise JudgeError(err.message) from err
