"""One file under two names, where the file system allows it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def link_or_copy(source: Path, target: Path) -> Path:
    """Makes `target` hold `source`'s bytes and returns it; both may be one inode, so neither may be edited afterwards.

    Entries of a store keep to that: they are written once under their hash, then renamed.
    """
    # The source is resolved because link(2) would link a symbolic link itself, which no bundle may hold.
    try:
        os.link(source.resolve(strict=True), target)
    except OSError:
        shutil.copyfile(source, target)
    return target
