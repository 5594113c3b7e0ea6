"""What a pair needs of a repository of the Hugging Face hub, and no file more; how it comes here, with progress."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from hsengines.errors import first_line
from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.shards import VARIANTS
from hsexport.progress import OnBytes

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile


class Fetcher(Protocol):
    """Brings what is wanted of a repository."""

    def fetch(self, hub_id: str, wanted: Mapping[str, RepoFile]) -> Path:
        """A folder with the files in `wanted`, by name. Raises the hub's own errors."""


class Downloads:
    """Into the hub's own cache. Where nobody listens, the hub's client shows bars of its own."""

    def __init__(self, on_bytes: OnBytes | None = None) -> None:
        self.on_bytes = on_bytes

    def fetch(self, hub_id: str, wanted: Mapping[str, RepoFile]) -> Path:
        """The local snapshot."""
        from huggingface_hub import snapshot_download, try_to_load_from_cache

        away = [file for name, file in wanted.items() if not isinstance(try_to_load_from_cache(hub_id, name), str)]
        bars = silent_bars(self.on_bytes, sum(file.size for file in away)) if self.on_bytes else None
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


# The repository's root may hold a transformer alone; single-file checkpoints there match none of these.
ROOT_DOCUMENTS = ("model_index.json", "config.json", "diffusion_pytorch_model.safetensors.index*.json")
DOCUMENTS = ("*.json", "*.txt", "*.model")
SHARD = r"(-\d+-of-\d+)?"
PLAIN_WEIGHTS = re.compile(rf"(diffusion_pytorch_)?model{SHARD}\.safetensors")
VARIANT_WEIGHTS = [
    re.compile(rf"(diffusion_pytorch_)?model(\.{name}{SHARD}|{SHARD}\.{name})\.safetensors") for name in VARIANTS
]


def wanted_files(names: Iterable[str], parts: Collection[str], without: Collection[str] = ()) -> list[str]:
    """Of a repository's files those a pair needs; a variant's twins only for a part that has nothing else.

    Of the parts in `without` no weights.
    """
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(str(PurePosixPath(name).parent), []).append(PurePosixPath(name).name)
    wanted: list[str] = []
    for folder in (".", "transformer", *parts):
        patterns = ROOT_DOCUMENTS if folder == "." else DOCUMENTS
        files = folders.get(folder, [])
        kept = [file for file in files if any(fnmatchcase(file, pattern) for pattern in patterns)]
        weights = () if folder in without else weights_among(files, folder)
        wanted += [str(PurePosixPath(folder) / file) for file in (*kept, *weights)]
    return wanted


def weights_among(files: list[str], folder: str) -> list[str]:
    """The safetensors files of one folder: full weights if it has them, else a variant's."""
    if folder == ".":
        files = [file for file in files if file.startswith("diffusion_pytorch_model")]
    found = ([file for file in files if pattern.fullmatch(file)] for pattern in (PLAIN_WEIGHTS, *VARIANT_WEIGHTS))
    return next(filter(None, found), [])


def fetched(hub_id: str, role: str, parts: Collection[str], without: Collection[str], fetcher: Fetcher) -> Path:
    """A folder for `hub_id`; without a network the one already in the hub's cache, if there is one."""
    try:
        from huggingface_hub.errors import (
            GatedRepoError,
            HFValidationError,
            HTTPError,
            RepositoryNotFoundError,
            SafetensorsParsingError,
        )
    except ImportError as err:
        raise PairError(
            f"{role} '{hub_id}' is a hub id, but huggingface_hub is not installed", "pip install 'hsexport[build]'"
        ) from err
    try:
        return snapshot(hub_id, parts, without, fetcher)
    except GatedRepoError as err:
        raise PairError(
            f"{role} '{hub_id}' is gated on the hub, and this account has no access to it",
            f"accept its licence at https://huggingface.co/{hub_id}, then: hf auth login",
        ) from err
    except RepositoryNotFoundError as err:
        raise PairError(
            f"{role} '{hub_id}' is no directory or file here, nor a repository of the hub that this account can see",
            f"check the name, run hf auth login for a private one, or give a directory: --{role} PATH",
        ) from err
    except (HTTPError, HFValidationError, SafetensorsParsingError, OSError) as err:
        raise PairError(
            f"{role} '{hub_id}' could not be downloaded: {first_line(err)}",
            f"check the network, or give a directory that is already here: --{role} PATH",
        ) from err


def snapshot(hub_id: str, parts: Collection[str], without: Collection[str], fetcher: Fetcher) -> Path:
    """Fetches what is wanted of `hub_id`, or raises the hub's own errors."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    try:
        files = listed(hub_id)
    except HfHubHTTPError:  # the hub answered, and refused
        raise
    except (HTTPError, OSError):
        if found := cached(hub_id):
            return found
        raise
    wanted = wanted_files(files, parts, without)
    if not wanted:
        raise PairError(
            f"'{hub_id}' holds no model_index.json, transformer or safetensors in diffusers' layout",
            "hsexport reads repositories that diffusers' from_pretrained reads",
        )
    return fetcher.fetch(hub_id, {name: files[name] for name in wanted})


def listed(hub_id: str) -> dict[str, RepoFile]:
    """The repository's files by name."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    entries = HfApi().list_repo_tree(hub_id, recursive=True)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def cached(hub_id: str) -> Path | None:
    """The last snapshot in the hub's cache, whole or not: what is missing, its reader will name.

    The client's own answer without a network is that every file of the repository must be there.
    """
    from huggingface_hub import try_to_load_from_cache

    for document in ("model_index.json", "config.json", "transformer/config.json"):
        found = try_to_load_from_cache(hub_id, document)
        if isinstance(found, str):
            return Path(found.removesuffix(document))
    return None
