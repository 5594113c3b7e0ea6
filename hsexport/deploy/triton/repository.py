"""Writes a bundle into a Triton model repository: REPO/NAME/config.pbtxt, model.py and the bundle in REPO/NAME/1."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hsengines.errors import HSError
from hsengines.files import link_or_copy, workplace
from hsexport.deploy.triton.config import BUNDLE_FOLDER, MARK, TritonOptions, config_text
from hsruntime.bundle.reader import MANIFEST_NAME, Bundle, open_bundle

CONFIG_NAME = "config.pbtxt"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""What Triton's addresses carry without escapes."""


@dataclass(frozen=True)
class Written:
    """A model in a repository."""

    model: Path
    bundle: Bundle
    linked: int
    """How many of the bundle's files share the original's bytes on the disk."""


def write_repository(
    source: Path, repo: Path, options: TritonOptions, *, name: str | None = None, link: bool = False
) -> Written:
    """Writes the model, replacing one that this function wrote before; a killed call leaves no half model in `repo`.

    name: of the model; the bundle's folder without .bundle, if None. link: hard links instead of copies, where the disk
    allows. Raises BundleError for what is no bundle, HSError for a bad name and for a place that something else holds.
    """
    bundle = open_bundle(source)
    name = bundle.path.resolve().name.removesuffix(".bundle") if name is None else name
    if not NAME.fullmatch(name):
        raise HSError(f"'{name}' cannot name a model", "give --name with letters, digits, '_', '-' and '.'")
    model = repo / name
    _check_replaceable(model)
    repo.mkdir(parents=True, exist_ok=True)
    with _workshop(repo) as shop:
        version = shop / "new" / "1"
        version.mkdir(parents=True)
        linked = _place_bundle(bundle, version / BUNDLE_FOLDER, link)
        shutil.copyfile(Path(__file__).with_name("model.py"), version / "model.py")
        (shop / "new" / CONFIG_NAME).write_text(config_text(name, bundle.manifest, options), encoding="utf-8")
        _swap(shop / "new", model, shop / "old")
    return Written(model, bundle, linked)


def _check_replaceable(model: Path) -> None:
    """Raises HSError if something lies there that `write_repository` did not write."""
    if not os.path.lexists(model):
        return
    config = model / CONFIG_NAME
    if model.is_symlink() or not config.is_file() or not config.read_bytes().startswith(MARK.encode()):
        raise HSError(
            f"'{model}' was not written by hsexport triton; it will not be overwritten",
            "choose another --name or --out, or remove it",
        )


@contextmanager
def _workshop(repo: Path) -> Iterator[Path]:
    """A folder on the repository's disk, beside it where possible: Triton takes every folder inside for a model."""
    beside = repo.resolve().parent
    on_one_disk = beside.stat().st_dev == repo.stat().st_dev and os.access(beside, os.W_OK)
    with workplace(beside if on_one_disk else repo, repo.resolve().name) as shop:
        yield shop


def _place_bundle(bundle: Bundle, target: Path, link: bool) -> int:
    """Returns how many files are links."""
    linked = 0
    for path in (*(record.path for record in bundle.manifest.files), MANIFEST_NAME):
        file, copy = bundle.path / path, target / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if link:
            linked += link_or_copy(file, copy).samefile(file)
        else:
            shutil.copyfile(file, copy)
    open_bundle(target, hashes=False)
    return linked


def _swap(new: Path, model: Path, aside: Path) -> None:
    """Gives the model's name to `new`."""
    try:
        if model.exists():
            model.rename(aside)
        new.rename(model)
    except BaseException:
        if aside.exists() and not model.exists():
            aside.rename(model)
        raise
