"""Who else is alive on this machine: what tells a leftover from another process's work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def is_other_process(pid: int) -> bool:
    """Whether a living process other than this one has that id; in a container a dead writer's id is ours again."""
    if pid == os.getpid():
        return False
    if os.name != "posix":
        return True  # os.kill would end the process there
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def left_behind(folder: Path, prefix: str) -> list[Path]:
    """What processes that are gone left in `folder`: `prefix`, the process's id, and anything after a dash."""
    found = [path for path in folder.iterdir() if path.name.startswith(prefix)]
    pids = [path.name.removeprefix(prefix).split("-")[0] for path in found]
    return [path for path, pid in zip(found, pids, strict=True) if pid.isdecimal() and not is_other_process(int(pid))]


@contextmanager
def workplace(folder: Path, name: str) -> Iterator[Path]:
    """An empty hidden place in `folder` for making `name`, gone afterwards; so is what killed processes left of it."""
    prefix = f".{name}.partial-"
    for left in left_behind(folder, prefix):
        shutil.rmtree(left, ignore_errors=True)
    place = folder / f"{prefix}{os.getpid()}"
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
