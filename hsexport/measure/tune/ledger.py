"""Every measurement, kept the moment it is made: a file of JSON lines that a killed search goes on from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType

import msgspec
from filelock import FileLock, Timeout
from msgspec import Struct

from hsengines.errors import HSError
from hsexport import __version__
from hsruntime.bundle.manifest import Manifest, manifest_bytes
from hsruntime.facts import Defaults

LEDGER_NAME = "ledger.jsonl"


class Conditions(Struct, frozen=True, forbid_unknown_fields=True):
    """What measurements must share to be comparable."""

    subject: str
    """`subject_of` the bundle."""
    threads: int
    large: str
    """What speed 1 is."""
    reference: str
    """What distance 0 is."""
    metric: str


class Measurement(Struct, frozen=True, forbid_unknown_fields=True, tag="measured"):
    """One picture: how far from the reference's, and how long its loop took beside large's in the same round."""

    conditions: Conditions
    schedule: str
    prompt: str
    seed: int
    seconds: float
    large_seconds: float
    value: float
    """Of the conditions' metric."""

    @property
    def key(self) -> tuple[Conditions, str, str, int]:
        """What it was made from."""
        return self.conditions, self.schedule, self.prompt, self.seed


class FirstDefaults(Struct, frozen=True, forbid_unknown_fields=True, tag="defaults"):
    """What the bundle did by default before it was tuned for the first time."""

    subject: str
    schedule: str
    steps: int


class Ledger:
    """The measurements in a folder; one process at a time."""

    def __init__(self, folder: Path) -> None:
        """Opens or begins it. Raises HSError if another process has it open, or if a line in it is broken."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / LEDGER_NAME
        self._lock = FileLock(folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as err:
            raise HSError(f"another search is at work in {folder}", "wait for it, or name another --work") from err
        self._measured: dict[tuple[Conditions, str, str, int], Measurement] = {}
        self._defaults: dict[str, FirstDefaults] = {}
        try:
            for record in _whole_records(self.path):
                self._remember(record)
            self._stream = self.path.open("ab")
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._lock.release()

    def add(self, record: Measurement | FirstDefaults) -> None:
        """Keeps a record; it is on the disk when this returns."""
        self._stream.write(msgspec.json.encode(record) + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._remember(record)

    def find(self, conditions: Conditions, schedule: str, prompt: str, seed: int) -> Measurement | None:
        """The measurement of a picture, if there is one."""
        return self._measured.get((conditions, schedule, prompt, seed))

    def first_defaults(self, manifest: Manifest) -> Defaults:
        """What the bundle did by default before its first search in this folder, which may be this one."""
        subject, now = subject_of(manifest), manifest.facts.defaults
        if subject not in self._defaults:
            self.add(FirstDefaults(subject, now.schedule, now.steps))
        first = self._defaults[subject]
        return msgspec.structs.replace(now, schedule=first.schedule, steps=first.steps)

    def __len__(self) -> int:
        return len(self._measured)

    def _remember(self, record: Measurement | FirstDefaults) -> None:
        if isinstance(record, FirstDefaults):
            self._defaults.setdefault(record.subject, record)
        else:
            self._measured[record.key] = record


def subject_of(manifest: Manifest) -> str:
    """A name for what measurements depend on: the manifest without its default schedule and steps."""
    constant = msgspec.structs.replace(manifest.facts.defaults, schedule="", steps=1)
    content = manifest_bytes(manifest.with_defaults(constant))
    return hashlib.sha256(content + __version__.encode()).hexdigest()[:16]


def _whole_records(path: Path) -> list[Measurement | FirstDefaults]:
    """All records; a last line that a killed writer left torn is cut off. Raises HSError for any other broken line."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    decoder = msgspec.json.Decoder(Measurement | FirstDefaults)
    records = []
    lines = whole.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            records.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as err:
            raise HSError(f"{path}, line {number} is not a measurement: {err}", "delete that line") from err
    return records
