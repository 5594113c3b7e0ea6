"""Repositories of the hub as a plan reads them: their documents, and of all weights the headers, each before a hole."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsengines.files import workplace
from hsexport.checkpoints.shards import header_bytes

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

AT_ONCE = 8  # requests: headers are small, and most of the time is spent on the way


class Previews:
    """A Fetcher of folders that stand for repositories while a plan is made, and are gone when it is left.

    They lie on the disk that downloads go to. What the hub's cache holds already is in them itself, and what two
    repositories hold alike is there once, as the hub's client keeps it, too.
    """

    def __init__(self) -> None:
        self.root: Path | None = None
        """Where they lie; None as long as nobody asked for one."""
        self._stack = ExitStack()
        self._known: dict[str, Path] = {}  # by sha256

    def __enter__(self) -> Previews:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    @property
    def missing_bytes(self) -> int:
        """Of weights that a build would have to download."""
        files = self.root.rglob("*.safetensors") if self.root else ()
        return sum(file.stat().st_size for file in files if not file.is_symlink())

    def fetch(self, hub_id: str, wanted: Mapping[str, RepoFile]) -> Path:
        """The folder for `hub_id`."""
        from huggingface_hub import snapshot_download

        documents = [name for name in wanted if not name.endswith(".safetensors")]
        found = Path(snapshot_download(hub_id, allow_patterns=documents)).absolute()
        folder = self._make_root() / hub_id
        if folder.is_dir():  # one model in both places
            return folder
        here = {name: found / name for name in wanted if (found / name).is_file()}
        large = {name: file.lfs.sha256 for name, file in wanted.items() if file.lfs}  # of no other is it told
        here = {name: self._known[sha256] for name, sha256 in large.items() if sha256 in self._known} | here
        away = [name for name in wanted if name not in here]
        for name in wanted:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        for name, file in here.items():
            (folder / name).symlink_to(file)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for name, entries in zip(away, pool.map(lambda name: _header(hub_id, name), away), strict=True):
                numbers = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
                write_hollow(folder / name, header_bytes(entries), numbers)
        self._known |= {sha256: folder / name for name, sha256 in large.items()}
        return folder

    def _make_root(self) -> Path:
        from huggingface_hub import constants

        if self.root is None:
            self.root = self._stack.enter_context(workplace(Path(constants.HF_HUB_CACHE).absolute(), "hsexport-plan"))
        return self.root


def _header(hub_id: str, name: str) -> dict[str, Any]:
    """A file's tensors, by a request for its first bytes alone."""
    from huggingface_hub import HfApi

    tensors = HfApi().parse_safetensors_file_metadata(hub_id, name).tensors
    return {
        tensor: {"dtype": each.dtype, "shape": each.shape, "data_offsets": each.data_offsets}
        for tensor, each in tensors.items()
    }


def write_hollow(file: Path, header: bytes, size_bytes: int) -> None:
    """A safetensors file as long as with its `size_bytes` of numbers, which takes next to nothing of the disk."""
    with file.open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + size_bytes)
