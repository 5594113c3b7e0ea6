"""What products read while a pair draws: the file that `calibrate` writes, and what a build takes from it.

A safetensors file. For each product's weight, `NETWORK/WEIGHT/largest` (modes, levels) has the largest number that was
read, by mode (whole picture, region) and noise level, zero where none was; `NETWORK/WEIGHT/squares` (columns,) the mean
square of each column. Its metadata name the members, prompts and schedules, and the noise levels' bounds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hsexport.build.request import RecipeError

MODES = ("whole", "region")
LEVELS = 10
"""Noise levels from 0 to 1 are told apart in so many equal parts; what has none, text and pictures, is in the last."""
AGAIN = "make it again with `hsexport calibrate`"


@dataclass(frozen=True)
class Ranges:
    """Of one network, by its weights' names: the largest number a product read, and its columns' mean squares."""

    largest: Mapping[str, float] = field(default_factory=dict)
    importance: Mapping[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """sha256 of all of it; empty for nothing."""
        if not self.largest and not self.importance:
            return ""
        whole = hashlib.sha256()
        for name in sorted(self.importance):
            whole.update(f"{name} {self.largest.get(name, 0.0)!r}".encode())
            whole.update(np.ascontiguousarray(self.importance[name], np.float32).tobytes())
        return whole.hexdigest()


@dataclass(frozen=True)
class Calibration:
    """A calibration's tensors, and what it says of itself."""

    file: Path
    tensors: Mapping[str, np.ndarray]
    about: Mapping[str, Any]

    @property
    def networks(self) -> list[str]:
        """Those that were run and have products."""
        return sorted({name.partition("/")[0] for name in self.tensors})

    def of(
        self, network: str, levels: Sequence[int] = range(LEVELS), modes: Sequence[int] = range(len(MODES))
    ) -> Ranges:
        """One network's, of all noise levels and modes or of some; nothing for one that was not run."""
        own = f"{network}/"
        ours = {name.removeprefix(own): array for name, array in self.tensors.items() if name.startswith(own)}
        heard = {n.removesuffix(LARGEST): a[np.ix_(modes, levels)] for n, a in ours.items() if n.endswith(LARGEST)}
        largest = {name: float(array.max(initial=0)) for name, array in heard.items()}
        squares = {n.removesuffix(SQUARES): a for n, a in ours.items() if n.endswith(SQUARES)}
        return Ranges(largest, squares)

    def check_members(self, marks: Mapping[str, str]) -> None:
        """Raises RecipeError for a calibration of other weights than those of the members, by role."""
        for role, mark in marks.items():
            if self.about["members"].get(role, mark) != mark:
                found = self.about["members"][role]
                raise RecipeError(f"{self.file} was measured on another {role}: {found}, this is {mark}", AGAIN)


LARGEST, SQUARES = "/largest", "/squares"


def read_calibration(file: Path) -> Calibration:
    """A calibration, whole in memory: some megabytes. Raises RecipeError for a file that is none or is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as opened:
            about = json.loads((opened.metadata() or {}).get("calibration", "null"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, it is no mapping
    except (OSError, SafetensorError, ValueError) as err:
        raise RecipeError(f"{file} cannot be read as a calibration: {err}", AGAIN) from err
    if not isinstance(about, dict) or not isinstance(about.get("members"), dict):
        raise RecipeError(f"{file} is no calibration: it names no members", AGAIN)
    for name, array in tensors.items():
        if not name.endswith((LARGEST, SQUARES)) or array.dtype != np.float32:
            raise RecipeError(f"{file} is no calibration: it holds {name} of {array.dtype}", AGAIN)
        if name.endswith(LARGEST) and array.shape != (len(MODES), LEVELS):
            raise RecipeError(f"{file} is no calibration: {name} is {list(array.shape)}", AGAIN)
        if not np.isfinite(array).all() or (array < 0).any():
            raise RecipeError(f"{file}: {name} holds numbers that no range has", AGAIN)
    return Calibration(file, tensors, about)


def calibration_bytes(tensors: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> bytes:
    """The file's bytes."""
    from safetensors.numpy import save

    return bytes(save(dict(tensors), {"calibration": json.dumps(dict(about), sort_keys=True)}))
