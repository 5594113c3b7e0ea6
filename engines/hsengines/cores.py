"""How many cores this process may use: what the system lets it run on, and what its control group's quota pays for."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """At least 1; a quota of one and a half cores counts as two."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, quotas())]))


def quotas(root: Path = CGROUPS, own: Path = OWN) -> list[float]:
    """Cores that each control group around this process may use; none on systems without quotas."""
    found = []
    with suppress(OSError):
        for line in own.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                found += [_quota(folder / "cpu.max") for folder in _around(root, path)]
            elif "cpu" in controllers.split(","):
                found += [_quota_v1(folder) for folder in _around(root / controllers, path)]
    return [quota for quota in found if quota is not None and quota > 0]


def _around(root: Path, path: str) -> Iterator[Path]:
    """A group's folder and those of the groups that it lies in; in a container its own is often the root."""
    place = root / path.lstrip("/")
    yield from (place, *(parent for parent in place.parents if parent.is_relative_to(root)))


def _quota(file: Path) -> float | None:
    """Version 2: "QUOTA PERIOD" in microseconds, or "max PERIOD"."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = file.read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    return None


def _quota_v1(folder: Path) -> float | None:
    """Version 1: a file each, -1 for no quota."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        return quota / int((folder / "cpu.cfs_period_us").read_text(encoding="utf-8"))
    return None
