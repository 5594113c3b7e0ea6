"""Files and folders that are whole or not there, and what killed processes left of theirs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A hidden place beside `path`, to be written to; afterwards its bytes are on the disk and `path` is its name.

    Until then, and whatever goes wrong (a full disk, Ctrl-C, a kill), `path` is what it was. Makes its folder. Raises
    OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part-{os.getpid()}-{get_ident()}")
    try:
        yield part
        flush(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes | memoryview | str) -> None:
    """Makes `path` hold `content`, text as UTF-8, in one go: who reads it sees the old bytes or the new."""
    with replaced(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def read_if_there(path: Path) -> bytes:
    """The file's bytes, none if it cannot be read: a cache is never worth an error."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def flush(path: Path) -> None:
    """Waits until the file or directory is on the disk."""
    if os.name != "posix":
        return  # Windows flushes no directory, and no file that is open for reading
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def link_graph(onnx: Path, folder: Path) -> list[Path]:
    """An ONNX file and its weights, if they have a file of their own, in `folder` by `link_or_copy`."""
    sources = (onnx, onnx.with_name(f"{onnx.name}.data"))
    return [link_or_copy(source, folder / source.name) for source in sources if source == onnx or source.exists()]


def bytes_text(count: int) -> str:
    """A number of bytes as people read it, in the largest decimal unit that leaves something before the point."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def is_other_process(pid: int) -> bool:
    """Whether a living process other than this one has that id; in a container a dead writer's id is ours again."""
    if pid == os.getpid():
        return False
    if os.name != "posix":
        return True  # os.kill would end the process there
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def left_behind(folder: Path, prefix: str) -> list[Path]:
    """What processes that are gone left in `folder`: `prefix`, the process's id, and anything after a dash."""
    found = [path for path in folder.iterdir() if path.name.startswith(prefix)]
    pids = [path.name.removeprefix(prefix).split("-")[0] for path in found]
    return [path for path, pid in zip(found, pids, strict=True) if pid.isdecimal() and not is_other_process(int(pid))]


@contextmanager
def workplace(folder: Path, name: str) -> Iterator[Path]:
    """An empty hidden place in `folder` for making `name`, gone afterwards; so is what killed processes left of it."""
    prefix = f".{name}.partial-"
    for left in left_behind(folder, prefix):
        shutil.rmtree(left, ignore_errors=True)
    place = folder / f"{prefix}{os.getpid()}"
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
