"""What a replica gets of a machine, and what it does in a batch job: groups of tasks through a session.

Of each task it leaves a picture and a record, named by what they were made from.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np

from hsengines.cores import usable_cores
from hsengines.errors import HSError
from hsengines.files import replace_file
from hsexport.deploy.pictures import provenance
from hsruntime import Session
from hsruntime.batching import batches, merged, parted
from hsruntime.bundle.manifest import Manifest
from hsruntime.options import OF_EACH, PictureOptions
from hsruntime.picture.picture import save_png
from hsruntime.request import Request
from hsruntime.telling import warnings_kept

log = logging.getLogger("hsexport.deploy.ray")

Outcome = tuple[int, str, str]
"""A task's index, "kept", "done" or "failed", and why."""


def gpus_of_each(manifest: Manifest, asked: float | None) -> float:
    """As asked; else one, or none for a bundle that runs on CPUs."""
    if asked is not None:
        return asked
    return 0 if manifest.on_cpu else 1


def threads_of_each(replicas: int, asked: int) -> int:
    """CPU threads: as asked; 0 shares out the cores that this process may use."""
    return asked or max(1, usable_cores() // replicas)


Pictures = Mapping[str, bytes]
"""Files' bytes, by the option."""


class Source(msgspec.Struct, frozen=True):
    """A picture's file that a line names."""

    named: str
    path: str
    stamp: tuple[int, int] | None
    """Its size and the time of its last change, which stand for its bytes; None where it cannot be seen."""

    @classmethod
    def of(cls, named: str, folder: Path) -> Source:
        """`named` from the folder on."""
        path = folder / named
        with suppress(OSError, ValueError):
            found = path.stat()
            return cls(named, str(path), (found.st_size, found.st_mtime_ns))
        return cls(named, str(path), None)

    def read(self, option: str) -> bytes:
        """Raises HSError."""
        try:
            return Path(self.path).read_bytes()
        except (OSError, ValueError) as err:
            told = err.strerror if isinstance(err, OSError) else str(err)
            raise HSError(f"the {option} '{self.named}' cannot be read: {told}") from err


class Task(msgspec.Struct, frozen=True):
    """One picture to draw; `bundle` is its manifest's digest."""

    index: int
    line: int
    asked: PictureOptions
    """Without files of pictures: those that all tasks share are the executor's."""
    bundle: str
    fault: str = ""
    """Why it cannot be drawn; what is asked for has then the line as it stands for a prompt."""
    sources: dict[str, Source] = {}
    """Files of its own, by the option."""
    shared: dict[str, str] = {}
    """What tells the files that all tasks share from others, by the option."""

    @classmethod
    def from_json(cls, text: str) -> Task:
        """The reverse of `json`. Nothing is checked here: what the bundle cannot draw must fail as one picture."""
        fields = json.loads(text)
        sources = msgspec.convert(fields["sources"], dict[str, Source])
        return cls(**{**fields, "asked": PictureOptions(**fields["asked"]), "sources": sources})

    @property
    def json(self) -> str:
        """For Ray. By way of `json`, since a prompt that is not text must come through; msgspec refuses it."""
        return json.dumps(msgspec.to_builtins(self))

    @property
    def name(self) -> str:
        """Of its files: equal for equal pictures at one place of the file, and for those only."""
        files = {name: [source.named, source.stamp] for name, source in self.sources.items()}
        asked = {name: value for name, value in msgspec.to_builtins(self.asked).items() if value is not None}
        named = json.dumps([asked, self.shared | files, self.bundle, self.fault], sort_keys=True)
        return f"{self.index:06d}-{hashlib.sha256(named.encode()).hexdigest()[:16]}"

    def completed(self, manifest: Manifest, shared: Pictures) -> Request:
        """Checked against the bundle; its own pictures are read. Raises HSError."""
        if self.fault:
            raise HSError(self.fault)
        own = {name: source.read(name) for name, source in self.sources.items()}
        with warnings_kept() as told:
            request = msgspec.structs.replace(self.asked, **{**shared, **own}).completed(manifest)
        for warning in told:
            log.warning("line %d: %s", self.line, warning)
        return request

    @property
    def told(self) -> dict[str, object]:
        """What tells the picture from the job's others."""
        files = {name: source.named for name, source in self.sources.items()}
        return {name: getattr(self.asked, name) for name in OF_EACH} | files


class Record(msgspec.Struct):
    """What of `<name>.json` vouches for the picture; people read more there."""

    status: str
    size_bytes: int | None = None


class Ledger:
    """A directory of pictures and records; one job at a time may write to it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def clear_leftovers(self) -> None:
        """Removes what killed jobs had begun."""
        for file in self.root.glob(".*.part-*"):
            file.unlink()

    def has(self, task: Task) -> bool:
        """Whether the task's picture and record are both there and whole."""
        with suppress(OSError, msgspec.MsgspecError):
            record = msgspec.json.decode(self._file(task, "json").read_bytes(), type=Record)
            return record.status == "done" and self._file(task, "png").stat().st_size == record.size_bytes
        return False

    def write_done(self, task: Task, picture: np.ndarray, *, schedule: str, seconds: float, together: int) -> None:
        """The picture (H, W, 3) first, then the record that vouches for it."""
        file = self._file(task, "png")
        save_png(file, picture, provenance({**task.told, "schedule": schedule}))
        done = {"schedule": schedule, "seconds": seconds, "together": together, "size_bytes": file.stat().st_size}
        self._write(task, {"status": "done", **done})

    def write_failed(self, task: Task, error: str) -> None:
        """A record alone; the next job tries again."""
        self._write(task, {"status": "failed", "error": error})

    def _write(self, task: Task, outcome: dict[str, object]) -> None:
        # json, since a prompt that is not text must be recorded as well; msgspec refuses it.
        record = json.dumps({**outcome, "line": task.line, **task.told}, indent=1)
        replace_file(self._file(task, "json"), f"{record}\n")

    def _file(self, task: Task, suffix: str) -> Path:
        return self.root / f"{task.name}.{suffix}"


class Executor:
    """Lives in a Ray actor; draws each task once and writes it down before it tells."""

    def __init__(
        self,
        bundle: str,
        out: str,
        device: str,
        threads: int,
        shared: Pictures,
        adapter_folder: str | None = None,
    ) -> None:
        # The job has checked the files' hashes.
        self._session = Session.open(
            Path(bundle), device=device, threads=threads, hashes=False, adapter_folder=adapter_folder
        )
        self._ledger = Ledger(Path(out))
        self._shared = shared

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str | int]]:
        """Column "task" in; columns "index", "status" and "error" out."""
        tasks = [Task.from_json(str(text)) for text in batch["task"]]
        outcomes = list(self._outcomes(tasks))
        return {
            "index": [index for index, _, _ in outcomes],
            "status": [status for _, status, _ in outcomes],
            "error": [error for _, _, error in outcomes],
        }

    def _outcomes(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        orders: list[tuple[Task, Request]] = []
        for task in tasks:
            if self._ledger.has(task):  # Ray gives a batch again whose actor died
                yield task.index, "kept", ""
                continue
            try:
                orders.append((task, task.completed(self._session.manifest, self._shared)))
            except HSError as err:
                yield self._failed(task, err)
        for batch in batches(orders, lambda order: order[1], len(orders)):
            yield from self._drawn([task for task, _ in batch], [request for _, request in batch])

    def _drawn(self, tasks: list[Task], requests: list[Request]) -> Iterator[Outcome]:
        try:
            result = self._session.run(merged(requests))
        except HSError as err:
            yield from (self._failed(task, err) for task in tasks)
            return
        for task, own in zip(tasks, parted(result, requests), strict=True):
            self._ledger.write_done(
                task, own.image, schedule=str(own.schedule), seconds=own.seconds, together=len(tasks)
            )
            yield task.index, "done", ""

    def _failed(self, task: Task, err: HSError) -> Outcome:
        self._ledger.write_failed(task, str(err))
        return task.index, "failed", f"line {task.line}: {err}"
