"""How files of a hub's repository come here: as a whole, with progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from hsexport.progress import OnBytes


class Fetcher(Protocol):
    """Brings what is wanted of a repository."""

    def fetch(self, hub_id: str, wanted: Mapping[str, str | None]) -> Path:
        """A folder with the files in `wanted`: names, and sha256 where the hub has it. Raises the hub's own errors."""


@dataclass(frozen=True)
class Downloads:
    """Into the hub's own cache. Where nobody listens, the hub's client shows bars of its own."""

    on_bytes: OnBytes | None = None

    def fetch(self, hub_id: str, wanted: Mapping[str, str | None]) -> Path:
        """The local snapshot."""
        from huggingface_hub import snapshot_download

        bars = silent_bars(self.on_bytes) if self.on_bytes else None
        return Path(snapshot_download(hub_id, allow_patterns=list(wanted), tqdm_class=bars))


DOWNLOADS = Downloads()


def silent_bars(on_bytes: OnBytes) -> type[Any]:
    """A class of tqdm's that draws no bar and tells of bytes; what `on_bytes` raises ends the download.

    The client has one for bytes from the network and one for bytes on the disk, of which some downloads move one only.
    """
    from tqdm import tqdm

    told: dict[int, tuple[int, int]] = {}
    lock = Lock()

    class SilentBar(tqdm):
        """Disabled, for tqdm holds locks while it draws, and then counts no more by itself."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"disable": True})
            self.counts_bytes = options.get("unit") == "B"

        def update(self, n: float | None = 1) -> None:
            """Called by the threads that download."""
            with lock:
                self.n += n or 0
                if self.counts_bytes and self.total:
                    told[id(self)] = int(self.n), int(self.total)
                furthest = max(told.values(), default=None)
            if furthest:
                on_bytes(*furthest)

    return SilentBar
