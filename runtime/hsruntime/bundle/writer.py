"""Writes a bundle so that its name always holds a whole one: the old before, the new after, never a mixture."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from hsengines.errors import HSError
from hsengines.files import bytes_text, flush, left_behind, link_or_copy, workplace
from hsruntime.bundle.manifest import BundleError, FileRecord, Manifest, manifest_bytes, manifest_from_bytes
from hsruntime.bundle.reader import MANIFEST_NAME, Bundle, check_paths, check_references, open_bundle, sha256_of
from hsruntime.facts import Defaults

Source = Path | bytes
"""Where a file's bytes come from."""


def write_bundle(
    out: Path,
    manifest: Manifest,
    contents: Mapping[str, Source],
    on_file: Callable[[str, int], None] | None = None,
) -> Bundle:
    """Writes `contents` (path in the bundle to bytes or a file) and the manifest to `out`, replacing a bundle there.

    `manifest.files` is replaced by what was written. A file given as a Path may be hard-linked: it must never be
    edited in place afterwards, which holds for the build cache; of anything else, pass the bytes. `on_file(path,
    size_bytes)` is called after each file. One process at a time may write to one `out`.

    Raises BundleError if manifest and contents do not make a bundle or `out` is something else, HSError if the disk is
    full or fails. Whatever happens, Ctrl-C and a killed process included, `out` is never a mixture; a bundle that a
    killed process had moved aside gets its name back at the next write.
    """
    check_paths(contents)
    check_references(manifest, contents)
    out = out.resolve()
    total_bytes = _total_bytes(contents.values())
    with ExitStack() as work:
        with _os_errors_told(out, out.parent, total_bytes):
            out.parent.mkdir(parents=True, exist_ok=True)
            _clear_replaced(out)
            _check_replaceable(out)
            _check_space(out.parent, contents)
            partial = work.enter_context(workplace(out.parent, out.name))
        records = _write_files(partial, contents, total_bytes, on_file)
        with _os_errors_told(out, out.parent, total_bytes):
            complete = _write_manifest(partial, msgspec.structs.replace(manifest, files=records))
            _swap(partial, out)
    return Bundle(out, complete)


def write_defaults(out: Path, defaults: Defaults) -> Bundle:
    """Replaces what a bundle does by default: its manifest, in one rename; no other file is touched.

    The new manifest is made beside the bundle, which thus holds listed files alone at every moment. Raises BundleError
    for what is no bundle, HSError if its folder cannot be written.
    """
    out = out.resolve()
    bundle = open_bundle(out, hashes=False)
    data = manifest_bytes(bundle.manifest.with_defaults(defaults))
    with _os_errors_told(out / MANIFEST_NAME, out.parent, len(data)):
        _clear_replaced(out)
        with workplace(out.parent, out.name) as partial:
            _store(data, partial, MANIFEST_NAME)
            written = (partial / MANIFEST_NAME).read_bytes()
            manifest = manifest_from_bytes(written)  # whoever made `defaults` may have erred
            (partial / MANIFEST_NAME).replace(out / MANIFEST_NAME)
            flush(out)
    return Bundle(out, manifest)


def _write_files(
    partial: Path, contents: Mapping[str, Source], total_bytes: int, on_file: Callable[[str, int], None] | None
) -> list[FileRecord]:
    records = []
    for path in sorted(contents):
        with _os_errors_told(path, partial.parent, total_bytes):
            records.append(_store(contents[path], partial, path))
        if on_file is not None:
            on_file(path, records[-1].size_bytes)
    return records


def _write_manifest(partial: Path, manifest: Manifest) -> Manifest:
    """Completes the bundle: the manifest last, then the directories' own entries onto the disk; answers it sealed."""
    _store(manifest_bytes(manifest), partial, MANIFEST_NAME)
    for directory, _, _ in os.walk(partial):
        flush(Path(directory))
    # Hashes were taken from these very files; what is left to see is whether the manifest reads back as it was written.
    return open_bundle(partial, hashes=False).manifest


def _store(source: Source, root: Path, path: str) -> FileRecord:
    """Puts one file on the disk and returns what was put there."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, bytes):
        target.write_bytes(source)
    else:
        link_or_copy(source, target)
    flush(target)
    return FileRecord(path=path, size_bytes=target.stat().st_size, sha256=sha256_of(target))


def _swap(partial: Path, out: Path) -> None:
    """Gives `out`'s name to `partial`; whatever held it is removed afterwards."""
    aside = out.with_name(f".{out.name}.replaced-{os.getpid()}")  # hidden, and on the disk that it can be renamed on
    try:
        if out.exists():
            out.rename(aside)
        partial.rename(out)
    except BaseException:
        if aside.exists() and not out.exists():
            aside.rename(out)
        raise
    flush(out.parent)
    if aside.exists():
        _discard(aside)


def _clear_replaced(out: Path) -> None:
    """Removes what killed writers of `out` left behind; a bundle they had only moved aside gets its name back."""
    for aside in left_behind(out.parent, f".{out.name}.replaced-"):
        if not out.exists() and (aside / MANIFEST_NAME).is_file():
            aside.rename(out)
        else:
            _discard(aside)


def _check_replaceable(out: Path) -> None:
    """Raises BundleError if writing to `out` would destroy something that is not a bundle."""
    if not out.exists() or (out.is_dir() and next(out.iterdir(), None) is None):
        return
    manifest = out / MANIFEST_NAME
    # Other programs call a file manifest.json too; the key is the first thing in ours, even in a damaged one.
    if not manifest.is_file() or b'"format_version"' not in manifest.read_bytes():
        raise BundleError(f"'{out}' is not a bundle; it will not be overwritten", "choose another place, or remove it")


def _check_space(parent: Path, contents: Mapping[str, Source]) -> None:
    """Raises HSError if the files that cannot be linked do not fit on `parent`'s disk."""
    device = parent.stat().st_dev
    copied = (s for s in contents.values() if isinstance(s, bytes) or s.stat().st_dev != device)
    needed_bytes = sum(_size_bytes(source) for source in copied)
    free_bytes = shutil.disk_usage(parent).free
    if needed_bytes > free_bytes:
        raise HSError(
            f"the bundle needs {bytes_text(needed_bytes)}, '{parent}' has {bytes_text(free_bytes)} free",
            f"free {bytes_text(needed_bytes - free_bytes)} there, or write the bundle elsewhere",
        )


@contextmanager
def _os_errors_told(subject: Path | str, parent: Path, total_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        full = err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = f"free {bytes_text(total_bytes)} on '{parent}'" if full else f"check that '{parent}' may be written"
        raise HSError(f"'{subject}' could not be written: {err}", f"{hint}, or write the bundle elsewhere") from err


def _discard(directory: Path) -> None:
    # The manifest goes first, so that a removal cut short leaves nothing that could be taken for a bundle. What cannot
    # be removed now (an open file on a network disk) does no harm and is tried again at the next write.
    with suppress(OSError):
        (directory / MANIFEST_NAME).unlink()
    shutil.rmtree(directory, ignore_errors=True)


def _total_bytes(sources: Iterable[Source]) -> int:
    try:
        return sum(_size_bytes(source) for source in sources)
    except OSError as err:
        raise HSError(f"a file meant for the bundle cannot be read: {err}", "build it again") from err


def _size_bytes(source: Source) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size
