"""Opens a bundle after checking every path, size and hash in it. Specified in runtime/BUNDLE.md."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hsruntime.bundle.consistency import check_consistency
from hsruntime.bundle.manifest import DAMAGED, FOREIGN, BundleError, FileRecord, Manifest, manifest_from_bytes

MANIFEST_NAME = "manifest.json"
REQUIRED_ENGINES = (
    "large", "condition_large", "vae_decoder", "prepare", "guide", "guide_held", "blend", "advance", "extrapolate",
    "keep", "score", "spread", "select_cache", "merge_cache", "unpatchify",
)  # fmt: skip

# No dot at either end rules out '.', '..' and what Windows strips; ASCII rules out two spellings of one name.
_PART = r"[A-Za-z0-9_-](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?"
_PATH = re.compile(rf"{_PART}(?:/{_PART})*")
_MANIFEST_LIMIT_BYTES = 16 * 2**20


class OpenToAllWarning(UserWarning):
    """A bundle's file that users other than its owner and group may write."""


@dataclass(frozen=True)
class Bundle:
    """A directory whose every file was found to be what its manifest says, at the moment it was opened."""

    path: Path
    manifest: Manifest

    def file(self, relative: str) -> Path:
        """Where the listed file `relative` lies. Raises BundleError for a path that the manifest does not list."""
        if all(record.path != relative for record in self.manifest.files):
            raise BundleError(f"bundle '{self.path}' lists no file '{relative}'", FOREIGN)
        return self.path / relative

    def check_identity(self, wanted: str) -> None:
        """Raises BundleError for a bundle other than the one that is meant; empty means any."""
        if wanted and wanted != self.manifest.identity:
            raise BundleError(
                f"bundle '{self.path}' has identity {self.manifest.identity}, expected {wanted}",
                "open the bundle that is meant, or ask for this one's identity",
            )


def open_bundle(path: Path, *, hashes: bool = True) -> Bundle:
    """Reads the manifest and checks every file against it. Raises BundleError naming the file, expected and found.

    `hashes=False` skips the one slow check (every byte is read once) for a bundle that was checked before.
    """
    try:
        manifest = read_manifest(path)
        listed = [record.path for record in manifest.files]
        check_paths(listed)
        check_references(manifest, listed)
        _check_sizes(manifest.files, dict(_sizes_on_disk(path)))
        if hashes:
            for record in manifest.files:
                found = sha256_of(path / record.path)
                if found != record.sha256:
                    raise BundleError(f"file '{record.path}' has sha256 {found}, expected {record.sha256}", DAMAGED)
    except OSError as err:
        raise BundleError(f"bundle '{path}' cannot be read: {err}", "check the disk and the permissions") from err
    return Bundle(path, manifest)


def check_paths(paths: Iterable[str]) -> None:
    """Raises BundleError for a path outside BUNDLE.md's grammar, and for two that a file system may take for one."""
    folded: dict[str, str] = {}
    for path in paths:
        if not _PATH.fullmatch(path):
            raise BundleError(f"path {path!r} is not a plain relative path inside the bundle", FOREIGN)
        if path.casefold() == MANIFEST_NAME:
            raise BundleError(f"path '{path}' is listed, but the manifest cannot list itself", FOREIGN)
        if path.casefold() in folded:
            raise BundleError(f"paths '{folded[path.casefold()]}' and '{path}' are the same name twice", FOREIGN)
        folded[path.casefold()] = path


def check_references(manifest: Manifest, listed: Iterable[str]) -> None:
    """Raises BundleError for a file that is not among `listed`, a missing engine, or a value that cannot be used."""
    known = set(listed)
    for subject, path in _file_references(manifest):
        if path not in known:
            raise BundleError(f"{subject} refers to '{path}', which is not among the bundle's files", FOREIGN)
    facts, joins = manifest.facts, (side.join for side in manifest.facts.text.values())
    partners = (["small", "condition_small"] if facts.small else []) + (["light"] if facts.light else [])
    wanted = [*REQUIRED_ENGINES, *partners, *joins, *(slot.engine for slot in facts.slots)]
    missing = [name for name in wanted if name not in manifest.engines]
    if missing:
        raise BundleError(f"the manifest has no engine '{missing[0]}', it has {sorted(manifest.engines)}", FOREIGN)
    check_consistency(manifest)


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in lower-case hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(path: Path) -> Manifest:
    """What the bundle at `path` says of itself, none of its files looked at. Raises BundleError or OSError."""
    hint = "check the path, or make a bundle: hsexport build --large ... --small ... --out ..."
    if not path.exists():
        raise BundleError(f"bundle '{path}' does not exist", hint)
    if not path.is_dir():
        raise BundleError(f"bundle '{path}' is not a directory", hint)
    file = path / MANIFEST_NAME
    if file.is_symlink() or not file.is_file():
        raise BundleError(f"'{path}' is not a bundle: it has no file {MANIFEST_NAME}", hint)
    size_bytes = file.stat().st_size
    if size_bytes > _MANIFEST_LIMIT_BYTES:
        raise BundleError(f"{MANIFEST_NAME} has {size_bytes} bytes, allowed are {_MANIFEST_LIMIT_BYTES}", FOREIGN)
    return manifest_from_bytes(file.read_bytes())


def _file_references(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Who refers to which file."""
    for name, engine in manifest.engines.items():
        yield f"engine '{name}'", engine.file
        yield from ((f"engine '{name}', weights,", path) for path in engine.weights)
        if engine.golden is not None:
            yield f"engine '{name}', golden,", engine.golden
    for encoder in manifest.facts.slots:
        yield f"text encoder '{encoder.engine}', tokenizer,", encoder.tokenizer


def _sizes_on_disk(root: Path) -> Iterator[tuple[str, int]]:
    """Path and size of every file but the manifest. Raises BundleError for whatever is neither file nor directory."""
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                relative = Path(entry.path).relative_to(root).as_posix()
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                elif not entry.is_file(follow_symlinks=False):
                    kind = "a symbolic link" if entry.is_symlink() else "neither a file nor a directory"
                    raise BundleError(f"{relative!r} is {kind}, a bundle holds plain files only", DAMAGED)
                else:
                    found = entry.stat(follow_symlinks=False)
                    _warn_of_writers(entry.path, found.st_mode)
                    if relative != MANIFEST_NAME:
                        yield relative, found.st_size


def _warn_of_writers(path: str, mode: int) -> None:
    """Files are mapped: whoever cuts one short while it is in use ends the process that uses it, without a word."""
    if os.name == "posix" and mode & stat.S_IWOTH:
        told = f"{path} may be written by every user, who could end this process: chmod o-w"
        warnings.warn(told, OpenToAllWarning, stacklevel=2)


def _check_sizes(records: Iterable[FileRecord], found: dict[str, int]) -> None:
    expected = {record.path: record.size_bytes for record in records}
    for path, size_bytes in expected.items():
        if path not in found:
            raise BundleError(f"file '{path}' is missing, {MANIFEST_NAME} lists it", DAMAGED)
        if found[path] != size_bytes:
            raise BundleError(f"file '{path}' has {found[path]} bytes, expected {size_bytes}", DAMAGED)
    extra = sorted(found.keys() - expected.keys())
    if extra:
        raise BundleError(f"file {extra[0]!r} is in the bundle, but {MANIFEST_NAME} does not list it", "remove it")
