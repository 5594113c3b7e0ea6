"""Checkpoints that a kill cannot break: written beside, then moved into place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hsengines.files import replaced


def save(path: Path, state: dict[str, Any]) -> None:
    """Replaces the checkpoint at `path` whole."""
    with replaced(path) as part:
        torch.save(state, part)


def load(path: Path) -> dict[str, Any] | None:
    """The checkpoint's state (tensors and plain values only), or None if there is none."""
    return torch.load(path, weights_only=True, map_location="cpu") if path.exists() else None
