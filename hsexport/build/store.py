"""A content-addressed store of build products, by keys of everything that decides them: whole entries or none."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

from filelock import FileLock, Timeout

from hsengines.errors import HSError
from hsengines.files import replace_file, workplace
from hsruntime.adapters import headers, lora
from hsruntime.bundle.reader import sha256_of

KEY_SCHEMA = 2
"""Of keys, and of the files that stages write of their own into an entry."""
CONTENTS = "contents.json"
SHAPING = {
    "export": (
        *("families/**/*.py", "networks/*.py", "onnx/*.py", "checkpoints/weights/*.py", "build/stages/export.py"),
        *("onnx/passes/graph_pass.py", "onnx/passes/name*.py", "onnx/passes/strip_metadata.py"),
    ),
    # The rooms of the weights too: they are computed and written in this stage.
    "optimise": (
        *("build/stages/optimise.py", "onnx/passes/*.py", "onnx/lint/*.py", "onnx/graph_files.py", "onnx/weights.py"),
        *("networks/network.py", "checkpoints/weights/*.py", "families/**/*weights.py", "families/**/fp32_blocks.py"),
    ),
    "verify": ("onnx/passes/*.py", "onnx/graph_files.py", "build/verify/*.py", "build/stages/verify.py"),
}
"""A stage and the source that decides what comes out of it."""


SHOWN = 60
"""Characters of a fact that are told."""


@dataclass(frozen=True)
class BuildKey:
    """Named facts about one product, for example {"builder": "onnxruntime 1.31.1", "onnx": "ab12..."}."""

    kind: str
    name: str
    facts: Mapping[str, str]

    @property
    def digest(self) -> str:
        """sha256 over schema version, kind, name and facts."""
        whole = {"schema": KEY_SCHEMA, "kind": self.kind, "name": self.name, "facts": dict(self.facts)}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def changes_since(self, earlier: Mapping[str, str]) -> str:
        """Which facts differ from an earlier build's, in words: "builder 11.3 -> 11.4"."""
        names = sorted(set(self.facts) | set(earlier))
        changed = [n for n in names if self.facts.get(n) != earlier.get(n)]
        return ", ".join(f"{n} {_change(earlier.get(n), self.facts.get(n))}" for n in changed)


def _change(before: str | None, now: str | None) -> str:
    """Both values; of long ones what they do not begin with together, so that the difference is not cut away."""
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before or "", now or "", strict=False)))
    skipped = common - 20 if max(len(before or ""), len(now or "")) > SHOWN and common > 20 else 0
    return f"{_short(before, skipped)} -> {_short(now, skipped)}"


def _short(value: str | None, skipped: int) -> str:
    if value is None:
        return "nothing"
    if len(value) == 64 and not skipped:  # a digest
        return value[:8]
    rest = value[skipped:]
    return f"{'...' if skipped else ''}{rest[:SHOWN]}{'...' if len(rest) > SHOWN else ''}"


@cache
def source_digest(stage: str) -> str:
    """sha256 over the source of a stage in `SHAPING`: editing it must not leave stale products behind."""
    here = Path(__file__).parents[1]
    files = {str(file.relative_to(here)): file for pattern in SHAPING[stage] for file in here.glob(pattern)}
    if "checkpoints/weights/*.py" in SHAPING[stage]:  # what they read and add LoRAs with lies in the runtime
        files |= {module.__name__: Path(str(module.__file__)) for module in (headers, lora)}
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0".encode() + files[name].read_bytes())
    return digest.hexdigest()


class Store:
    """Entries are folders `<root>/<kind>/<digest>`; once there, an entry is never written again."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: BuildKey) -> Path | None:
        """The entry's folder, or None; an entry with a damaged file counts as missing and is removed.

        Every byte is read: a bundle shares its files with the store, so damage done to one is done to both.
        """
        entry = self._entry(key)
        if not entry.is_dir():
            return None
        if _is_whole(entry):
            return entry
        shutil.rmtree(entry)
        return None

    def digests(self, entry: Path) -> dict[str, str]:
        """sha256 of every file of an entry by its path within, as they were when it was made or last looked at."""
        contents: dict[str, tuple[int, str]] = json.loads((entry / CONTENTS).read_text())
        return {name: sha256 for name, (_, sha256) in contents.items()}

    def make(self, key: BuildKey, fill: Callable[[Path], None], on_wait: Callable[[], None] = lambda: None) -> Path:
        """The entry's folder, filled by `fill` in a temporary place if it is missing, then moved in whole.

        Two builds of one thing make it once: the second waits, after `on_wait`, and takes what the first made. The
        lock goes with its process, so a killed builder keeps nobody waiting.
        """
        with _os_errors_told(key.name, self.root), self._alone(key, on_wait):
            return self.find(key) or self._make(key, fill)

    def why_missing(self, key: BuildKey) -> str:
        """What changed since the last product of this kind and name was made; "first build" if there was none."""
        last = self._last(key)
        if not last.is_file():
            return "first build"
        try:
            return key.changes_since(json.loads(last.read_text())) or "the stored one was gone or broken"
        except ValueError:
            return "the record of the last build is unreadable"

    def _alone(self, key: BuildKey, on_wait: Callable[[], None]) -> AbstractContextManager[FileLock]:
        locks = self.root / "locks"
        for folder in (locks, self._entry(key).parent):
            folder.mkdir(parents=True, exist_ok=True)
        # The lock's file stays: removing it would let a third build lock a new one while the second holds the old.
        lock = FileLock(locks / f"{key.kind}-{key.digest}")
        try:
            return lock.acquire(blocking=False)
        except Timeout:
            on_wait()
            return lock.acquire()

    def _make(self, key: BuildKey, fill: Callable[[Path], None]) -> Path:
        entry = self._entry(key)
        with workplace(entry.parent, "unfinished") as work:  # a process makes one entry of a kind at a time
            fill(work)
            _write_record(work)
            work.rename(entry)
        replace_file(self._last(key), json.dumps(dict(key.facts), sort_keys=True))
        return entry

    def _entry(self, key: BuildKey) -> Path:
        return self.root / key.kind / key.digest

    def _last(self, key: BuildKey) -> Path:
        return self.root / key.kind / f"{key.name}.last.json"


@contextmanager
def _os_errors_told(name: str, root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        existing = next(folder for folder in (root, *root.absolute().parents) if folder.is_dir())
        free_mb = shutil.disk_usage(existing).free // 1_000_000
        raise HSError(
            f"'{name}' could not be written to the cache {root}: {err.strerror or err} ({free_mb} MB free)",
            "free some space or name another place with --cache; what is done so far is kept",
        ) from err


def _write_record(folder: Path) -> None:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    contents = {path.relative_to(folder).as_posix(): [path.stat().st_size, sha256_of(path)] for path in files}
    (folder / CONTENTS).write_text(json.dumps(contents, sort_keys=True))


def _is_whole(entry: Path) -> bool:
    try:
        contents = json.loads((entry / CONTENTS).read_text())
        found = ((entry / name, size_bytes, sha256) for name, (size_bytes, sha256) in contents.items())
        return all(file.stat().st_size == size and sha256_of(file) == sha256 for file, size, sha256 in found)
    except (OSError, ValueError, TypeError, AttributeError):  # the record itself may be what was damaged
        return False
