"""How files of a hub's repository come here: as a whole, with progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from hsexport.progress import OnBytes


@dataclass(frozen=True)
class HubFile:
    """What the hub tells of a file; the sha256 of large ones alone."""

    size_bytes: int
    sha256: str | None


class Fetcher(Protocol):
    """Brings what is wanted of a repository."""

    def fetch(self, hub_id: str, wanted: Mapping[str, HubFile]) -> Path:
        """A folder with the files in `wanted`, by name. Raises the hub's own errors."""


@dataclass(frozen=True)
class Downloads:
    """Into the hub's own cache. Where nobody listens, the hub's client shows bars of its own."""

    on_bytes: OnBytes | None = None

    def fetch(self, hub_id: str, wanted: Mapping[str, HubFile]) -> Path:
        """The local snapshot."""
        from huggingface_hub import snapshot_download, try_to_load_from_cache

        away = [file for name, file in wanted.items() if not isinstance(try_to_load_from_cache(hub_id, name), str)]
        bars = silent_bars(self.on_bytes, sum(file.size_bytes for file in away)) if self.on_bytes else None
        return Path(snapshot_download(hub_id, allow_patterns=list(wanted), tqdm_class=bars))


DOWNLOADS = Downloads()


def silent_bars(on_bytes: OnBytes, expected_bytes: int) -> type[Any]:
    """A class of tqdm's that draws no bar and tells of bytes; what `on_bytes` raises ends the download.

    The client has one for bytes from the network and one for bytes on the disk, of which some downloads move one only.
    Each counts in its total what has begun.
    """
    from tqdm import tqdm

    bars: list[SilentBar] = []
    lock = Lock()

    class SilentBar(tqdm):
        """Disabled, for tqdm holds locks while it draws, and then counts no more by itself."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"disable": True})
            if options.get("unit") == "B":
                bars.append(self)

        def update(self, n: float | None = 1) -> None:
            """Called by the threads that download; who listens hears one after the other, and never of less."""
            with lock:
                self.n += n or 0
                if bars:
                    furthest = max(bars, key=lambda bar: bar.n)
                    on_bytes(int(furthest.n), max(expected_bytes, int(furthest.total or 0)))

    return SilentBar
