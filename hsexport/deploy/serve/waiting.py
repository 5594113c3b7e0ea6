"""Pictures that somebody waits for, and their bounded queue: who is drawn next, and together with whom."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Condition
from time import monotonic

from hsengines.errors import HSError
from hsruntime.batching import kind_of
from hsruntime.bundle.manifest import Manifest
from hsruntime.options import PictureOptions
from hsruntime.request import Request, Result
from hsruntime.telling import warnings_kept


class QueueFullError(HSError):
    """No room for another picture; the caller may come again."""


class StoppingError(HSError):
    """The server finishes what it has and takes nothing new."""


STOPPED = StoppingError("the server is shutting down and gave this picture up", "ask another one, or this one later")


@dataclass(frozen=True)
class Drawn:
    """A finished picture, and what it took."""

    result: Result
    waited: float
    """Seconds between asking and beginning."""
    together: int
    """Pictures in its batch, itself included."""


@dataclass(eq=False)
class Job:
    """A picture on its way; `future` is answered exactly once."""

    asked: PictureOptions | None
    """None once it is begun: files of pictures need not be held any longer."""
    manifest: Manifest
    request: Request
    """What is asked, completed for that bundle."""
    deadline: float
    future: Future[Drawn] = field(default_factory=Future)
    queued: float = field(default_factory=monotonic)
    abandoned: bool = False
    """Nobody waits any more: it is not begun, and ends early if all of its batch are."""
    kind: Hashable = field(init=False)
    """Of those that may be drawn together; kept, for it takes a digest of each picture."""

    def __post_init__(self) -> None:
        self.kind = kind_of(self.request)

    def complete(self, manifest: Manifest) -> None:
        """Anew, for another bundle. Raises what `PictureOptions.completed` raises."""
        assert self.asked is not None
        with warnings_kept():  # the caller was told when it was asked
            self.request, self.manifest = self.asked.completed(manifest), manifest
        self.kind = kind_of(self.request)

    @property
    def unwanted(self) -> bool:
        """Whether a picture would come to nobody, or too late."""
        return self.abandoned or monotonic() > self.deadline


def batch_sizes(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`: each size binds memory of its own, so there are few."""
    return sorted({*(2**i for i in range(most.bit_length()) if 2**i <= most), most})


class Waiting:
    """Jobs in the order they came; safe from any thread."""

    def __init__(self, room: int, most_together: int, gather_seconds: float) -> None:
        """At most `room` wait; a batch that is not full waits `gather_seconds` for company."""
        self._room = room
        self._sizes = batch_sizes(most_together)
        self._gather_seconds = gather_seconds
        self._jobs: list[Job] = []
        self._changed = Condition()
        self.stopping = False
        """Nothing new is taken."""
        self.given_up = False
        """What is being drawn is to end, too."""
        self.lost = 0
        """Pictures that were given up."""

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, jobs: Sequence[Job]) -> None:
        """All of them or none. Raises QueueFullError or StoppingError."""
        with self._changed:
            if self.stopping:
                raise StoppingError("the server is shutting down", "ask another one, or this one later")
            self._forget_unwanted()
            if len(self._jobs) + len(jobs) > self._room:
                raise QueueFullError(f"{len(self._jobs)} pictures wait, there is room for {self._room}", "try later")
            self._jobs.extend(jobs)
            self._changed.notify_all()

    def wake(self) -> None:
        """Makes a waiting `take` return, with nothing if there is nothing."""
        with self._changed:
            self._changed.notify_all()

    def stop(self) -> None:
        """Takes nothing new; `take` goes on until the queue is empty."""
        with self._changed:
            self.stopping = True
            self._changed.notify_all()

    def give_up(self) -> None:
        """Takes nothing new, and answers those that wait with StoppingError."""
        with self._changed:
            self.stopping = self.given_up = True
            jobs, self._jobs = self._jobs, []
            for job in jobs:
                self.fail(job, STOPPED)
            self._changed.notify_all()

    def fail(self, job: Job, err: Exception) -> None:
        """Answers a job that is not drawn; one that nobody waits for any more needs no answer."""
        self.lost += isinstance(err, StoppingError)
        with suppress(InvalidStateError):
            job.future.set_exception(err)

    @property
    def ended(self) -> bool:
        """Stopped, and nothing waits."""
        return self.stopping and not self._jobs

    def take(self, manifest: Manifest) -> list[Job]:
        """Waits for work: the oldest job and those that may be drawn with it. Empty after `wake` or at the end.

        Orders that were completed for another bundle than the one at work are completed again.
        """
        with self._changed:
            if not self._jobs and not self.stopping:
                self._changed.wait()
            self._forget_unwanted()
            if not self._jobs:
                return []
            self._gather()
            self._check_again(manifest)
            self._forget_unwanted()
            company = self._company()
            batch = company[: max((size for size in self._sizes if size <= len(company)), default=0)]
            self._jobs = [job for job in self._jobs if job not in batch]
            for job in batch:
                job.asked = None
            return batch

    def _check_again(self, manifest: Manifest) -> None:
        for job in self._jobs:
            if job.manifest is manifest:
                continue
            try:
                job.complete(manifest)
            except HSError as err:  # the old bundle could, the new one cannot
                job.abandoned = True
                job.future.set_exception(err)

    def _gather(self) -> None:
        """Lets a batch fill; a full one, or one that must be alone, waits for nobody."""
        until = monotonic() + self._gather_seconds
        while not self.stopping and (left := until - monotonic()) > 0:
            company = self._company()
            if not company or len(company) >= self._sizes[-1] or company[0].kind is None:
                return
            self._changed.wait(left)

    def _company(self) -> list[Job]:
        """The oldest job, and others of its kind."""
        if not self._jobs:
            return []
        first, *others = self._jobs
        if first.kind is None:
            return [first]
        return [first, *(job for job in others if job.kind == first.kind)][: self._sizes[-1]]

    def _forget_unwanted(self) -> None:
        unwanted = [job for job in self._jobs if job.unwanted]
        for job in unwanted:
            job.future.cancel()
        self._jobs = [job for job in self._jobs if job not in unwanted]
