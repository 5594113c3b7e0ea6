"""One picture that somebody waits for."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic

from hsruntime.bundle.manifest import Manifest
from hsruntime.request import Request, complete_request
from hsruntime.result import Result


@dataclass(frozen=True)
class Order:
    """What one picture should be; what is None comes from the bundle."""

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    size: tuple[int | None, int | None] = (None, None)
    steps: int | None = None
    guidance_scale: float | None = None
    schedule: str | None = None

    def completed(self, manifest: Manifest) -> Request:
        """Checked against a bundle. Raises RequestError, ShapeError or ScheduleError."""
        return complete_request(
            manifest,
            self.prompt,
            negative_prompt=self.negative_prompt,
            seed=self.seed,
            size=self.size,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            schedule=self.schedule,
        )


@dataclass(frozen=True)
class Drawn:
    """A finished picture, and what it took."""

    result: Result
    waited: float
    """Seconds between order and begin."""
    together: int
    """Pictures in its batch, itself included."""


@dataclass(eq=False)
class Job:
    """An order on its way; `future` is answered exactly once."""

    order: Order
    manifest: Manifest
    request: Request
    """The order, completed for that bundle."""
    deadline: float
    future: Future[Drawn] = field(default_factory=Future)
    queued: float = field(default_factory=monotonic)
    abandoned: bool = False
    """Nobody waits any more: it is not begun, and ends early if all of its batch are."""

    @property
    def unwanted(self) -> bool:
        """Whether a picture would come to nobody, or too late."""
        return self.abandoned or monotonic() > self.deadline
