"""What the machine at hand has left: memory, and disk where a build writes."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from hsexport.checkpoints.previews import Previews


@dataclass(frozen=True)
class Download:
    """Weights that the hub's cache lacks, in bytes, and what is free where they go."""

    size_bytes: int
    free_bytes: int
    beside_cache: bool
    """Whether the build's own cache lies on the same file system."""


@dataclass(frozen=True)
class Machine:
    """Free bytes. `held_bytes` lie in the cache already and may be what the build is going to need."""

    memory_bytes: int
    cache_free_bytes: int
    held_bytes: int
    out_free_bytes: int
    one_disk: bool
    """Whether cache and bundle lie on one file system, where a bundle's files are second names of the cache's."""
    checkpoint_beside_cache: bool
    """Whether a graph in the cache may name the checkpoint's own files: they lie on one file system, too."""
    download: Download | None = None


def machine_at(out: Path, cache: Path, checkpoint: Path, previews: Previews | None = None) -> Machine:
    """What is free here, for a build from `checkpoint`, a folder of weights, by way of `cache` to `out`.

    Weights that are in `previews` by their headers alone are still to be downloaded.
    """
    places = existing(out), existing(cache)
    weights = next((file.resolve() for file in checkpoint.glob("*.safetensors")), checkpoint.resolve())
    download = None
    if previews and previews.root and (missing := previews.missing_bytes):
        beside = previews.root.stat().st_dev == places[1].stat().st_dev
        download = Download(missing, shutil.disk_usage(previews.root).free, beside_cache=beside)
    return Machine(
        memory_bytes=available_memory(),
        cache_free_bytes=shutil.disk_usage(places[1]).free,
        held_bytes=held_bytes(cache),
        out_free_bytes=shutil.disk_usage(places[0]).free,
        one_disk=places[0].stat().st_dev == places[1].stat().st_dev,
        checkpoint_beside_cache=weights.stat().st_dev == places[1].stat().st_dev,
        download=download,
    )


def available_memory() -> int:
    """Bytes that the system could give out, swap included; all there is where it does not say."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        return sum(int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def held_bytes(folder: Path) -> int:
    """Bytes of the files in `folder`, each counted once however often it is linked."""
    stats = [file.stat() for file in folder.rglob("*") if file.is_file()] if folder.is_dir() else []
    return sum({stat.st_ino: stat.st_size for stat in stats}.values())


def existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(parent for parent in (path.resolve(), *path.resolve().parents) if parent.exists())
