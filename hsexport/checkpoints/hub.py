"""What a pair needs of a repository of the Hugging Face hub, and no file more."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from hsexport.checkpoints.downloads import Fetcher, HubFile
from hsexport.checkpoints.errors import PairError
from hsexport.checkpoints.shards import VARIANTS

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
            f"{role} '{hub_id}' is neither a local directory nor a repository of the hub that this account can see",
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


def listed(hub_id: str) -> dict[str, HubFile]:
    """The repository's files by name."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    entries = HfApi().list_repo_tree(hub_id, recursive=True)
    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    return {file.path: HubFile(file.size, file.lfs.sha256 if file.lfs else None) for file in files}


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


def first_line(err: Exception) -> str:
    """The first line of a foreign error, or its type where it has no text."""
    return next(iter(str(err).strip().splitlines()), type(err).__name__)
