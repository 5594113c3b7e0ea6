"""Goldens: one random input of a network and its torch module's answer, kept in the bundle for later checks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np


def save_golden(path: Path, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
    """Writes an uncompressed npz with members in/<name> and out/<name>; the same arrays give the same bytes."""
    members = {f"in/{n}": a for n, a in inputs.items()} | {f"out/{n}": a for n, a in outputs.items()}
    np.savez(path, allow_pickle=False, **members)


def load_golden(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs and outputs by name; never unpickles."""
    with np.load(path, allow_pickle=False) as archive:
        members = {name: archive[name] for name in archive.files}
    inputs = {n.removeprefix("in/"): a for n, a in members.items() if n.startswith("in/")}
    return inputs, {n.removeprefix("out/"): a for n, a in members.items() if n.startswith("out/")}
