"""A disk that is soon full, as a user's would be: a tmpfs of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(at: Path, size: str) -> Iterator[Path]:
    """`size` as mount takes it, in pages of 4 KiB. Skips the test where this machine mounts none."""
    at.mkdir()
    if os.name != "posix" or os.getuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", at], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"this machine mounts no tmpfs: {mount.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)
