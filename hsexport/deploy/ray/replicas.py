"""What each replica gets of a machine."""

from __future__ import annotations

import os

from hsruntime.bundle.manifest import Manifest


def gpus_of_each(manifest: Manifest, asked: float | None) -> float:
    """As asked; else one, or none for a bundle that runs on CPUs."""
    if asked is not None:
        return asked
    return 0 if manifest.on_cpu else 1


def threads_of_each(replicas: int, asked: int) -> int:
    """CPU threads: as asked; 0 shares this machine's cores out."""
    return asked or max(1, (os.cpu_count() or 1) // replicas)
