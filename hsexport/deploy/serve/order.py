"""One picture that somebody waits for."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic

from hsruntime.bundle.manifest import Manifest
from hsruntime.options import PictureOptions
from hsruntime.request import Request
from hsruntime.result import Result


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

    asked: PictureOptions
    manifest: Manifest
    request: Request
    """What is asked, completed for that bundle."""
    deadline: float
    future: Future[Drawn] = field(default_factory=Future)
    queued: float = field(default_factory=monotonic)
    abandoned: bool = False
    """Nobody waits any more: it is not begun, and ends early if all of its batch are."""

    @property
    def unwanted(self) -> bool:
        """Whether a picture would come to nobody, or too late."""
        return self.abandoned or monotonic() > self.deadline
