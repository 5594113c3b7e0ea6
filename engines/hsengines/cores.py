"""How many cores this process may use: what the system lets it run on, and what its control group's quota pays for."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
CPUINFO = Path("/proc/cpuinfo")


def usable_cores() -> int:
    """At least 1; a quota of one and a half cores counts as two."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, quotas())]))


def cpu_flags(file: Path = CPUINFO) -> tuple[str, frozenset[str]]:
    """Vendor and flags of the first core as Linux tells them; nothing elsewhere."""
    try:
        told = file.read_text(encoding="utf-8")
    except OSError:
        return "", frozenset()
    fields = dict(line.partition("\t")[::2] for line in told.partition("\n\n")[0].splitlines())
    found = {name.strip(): value.lstrip("\t: ") for name, value in fields.items()}
    return found.get("vendor_id", ""), frozenset(found.get("flags", found.get("Features", "")).split())


@cache
def multiplies_bytes() -> bool:
    """Whether the CPU multiplies bytes and adds up in one step (VNNI, and Arm's dot products)."""
    return bool(cpu_flags()[1] & {"avx512_vnni", "avx_vnni", "asimddp"})


def checked_threads(asked: int) -> int:
    """As many as asked for, 0 for all; warns of more than there are cores to run on."""
    usable = usable_cores()
    if asked > usable:
        warnings.warn(f"{asked} threads asked for, but this process may use {usable} cores", stacklevel=3)
    return asked


def quotas(root: Path = CGROUPS, own: Path = OWN) -> list[float]:
    """Cores that each control group around this process may use; none on systems without quotas."""
    found = []
    with suppress(OSError):
        for line in own.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                found += [_quota(folder / "cpu.max") for folder in _around(root, path)]
            elif "cpu" in controllers.split(","):
                around = _around(root / controllers, path)
                found += [_quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us") for folder in around]
    return [quota for quota in found if quota is not None and quota > 0]


def _around(root: Path, path: str) -> Iterator[Path]:
    """A group's folder and those of the groups that it lies in; in a container its own is often the root."""
    place = root / path.lstrip("/")
    yield from (place, *(parent for parent in place.parents if parent.is_relative_to(root)))


def _quota(*files: Path) -> float | None:
    """Of quota and period in microseconds: in one file (version 2), "max" for none, or one each (version 1), -1."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (number for file in files for number in file.read_text(encoding="utf-8").split())
        return int(quota) / int(period)
    return None
