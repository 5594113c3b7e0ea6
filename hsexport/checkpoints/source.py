"""Where a member of the pair comes from: the demo, a local directory, or the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.hub import DOWNLOADS, Fetcher, fetched

Role = Literal["large", "small"]

DEMO = Path(__file__).parent.parent / "demo"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_source(
    source: str,
    role: Role,
    parts: Collection[str] = (),
    without: Collection[str] = (),
    fetcher: Fetcher = DOWNLOADS,
) -> Path:
    """The directory or single file behind `source`.

    Of a hub id the transformer and `parts` are fetched, but for weights of parts in `without`.
    """
    if source == "demo":
        return demo_directory(role)
    if is_local(source):
        return Path(source).expanduser()
    if HUB_ID.fullmatch(source):
        return fetched(source, role, parts, without, fetcher)
    raise PairError(
        f"{role} '{source}' is neither a directory, a file, a hub id (org/name), nor 'demo'",
        f"check the path given to --{role}",
    )


def is_local(source: str) -> bool:
    """Whether `source` is a path on this machine: it wins over a hub id of the same name."""
    local = Path(source).expanduser()
    return source not in ("", "demo") and (local.is_dir() or local.is_file())  # Path("") is the current directory


def demo_directory(role: Role) -> Path:
    """The demo pair's `role`, which ships inside the package."""
    directory = DEMO / role
    if not directory.is_dir():
        raise PairError(
            f"the demo pair is not in this installation: {directory} does not exist",
            "reinstall hsexport from its wheel, or train the pair: scripts/train_demo_pair",
        )
    return directory
