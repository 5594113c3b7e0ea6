"""The server behind the HTTP: orders in, pictures out, one bundle at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from msgspec import structs

from hsexport.deploy.serve.metrics import Metrics
from hsexport.deploy.serve.waiting import Job, Waiting, batch_sizes
from hsexport.deploy.serve.watch import BundleWatch
from hsexport.deploy.serve.worker import Worker
from hsruntime import Session
from hsruntime.batching import most_together
from hsruntime.bundle.manifest import Manifest
from hsruntime.bundle.reader import Bundle, open_bundle
from hsruntime.options import PictureOptions, SessionOptions
from hsruntime.text.tokenize import PromptRow

log = logging.getLogger("hsexport.deploy.serve")


@dataclass(frozen=True)
class ServiceOptions:
    """How a service draws and how much it takes on."""

    session: SessionOptions
    queue: int = 16
    """Pictures that may wait."""
    max_batch: int | None = None
    """Pictures drawn together at most; None: as `most_together` has it."""
    gather_seconds: float = 0.005
    timeout_seconds: float = 120
    """After which a picture is not waited for any longer."""
    warm_up: bool = True
    watch_seconds: float = 2
    """How often the bundle's directory is looked at; 0: never."""


class Service:
    """A bundle at work. Everything but `open` and `close` is safe from any thread."""

    def __init__(self, path: Path, options: ServiceOptions) -> None:
        """Opens, and draws one picture beforehand. Raises what `Session.open` raises."""
        self.path = path
        self.options = options
        bundle = open_bundle(path)
        self._most_together = most_together(bundle.manifest, options.max_batch)
        self._waiting = Waiting(options.queue, self._most_together, options.gather_seconds)
        self.metrics = Metrics(lambda: len(self._waiting))
        self._worker = Worker(self._session_of(bundle), self._waiting, self.metrics.observe)
        self._draining = False
        self._watch: BundleWatch | None = None
        if options.watch_seconds:
            self._watch = BundleWatch(path, bundle.manifest, self._session_of, self._take_up, self._refuse)

    def start(self) -> None:
        """Begins to draw, and to look after the bundle."""
        self._worker.start()
        if self._watch:
            self._watch.start(self.options.watch_seconds)

    def close(self, seconds: float = 30) -> None:
        """Draws what waits, for `seconds` at most, and frees everything."""
        if self._watch:
            self._watch.stop()
        self._waiting.stop()
        if self._worker.join(seconds):
            return
        self.give_up()
        if not self._worker.join(1):
            log.warning("a picture was still being drawn after %.0f s", seconds)

    def give_up(self) -> None:
        """Ends what is not drawn yet, waiting or begun: whoever waits hears StoppingError."""
        self._draining = True
        self._waiting.give_up()

    @property
    def gave_up(self) -> bool:
        """Whether pictures that were taken on were not drawn to their end."""
        return self._waiting.lost > 0

    def drain(self) -> None:
        """From now on not ready, and nothing new is taken."""
        self._draining = True
        self._waiting.stop()

    @property
    def manifest(self) -> Manifest:
        """The bundle's that is at work."""
        return self._worker.session.manifest

    @property
    def alive(self) -> bool:
        """Whether pictures can still be drawn by this process at all."""
        return self._worker.alive

    @property
    def ready(self) -> bool:
        """Whether a request would be taken, if the queue has room."""
        return self.alive and not self._draining

    def submit(self, orders: Sequence[PictureOptions]) -> list[Job]:
        """Checks all orders and puts all or none into the queue.

        Raises RequestError, ShapeError or ScheduleError for what the bundle cannot draw; QueueFullError; StoppingError.
        """
        manifest, deadline = self.manifest, monotonic() + self.options.timeout_seconds
        jobs = [Job(order, manifest, order.completed(manifest), deadline) for order in orders]
        self._waiting.add(jobs)
        return jobs

    def cuts(self, prompts: Sequence[str | PromptRow]) -> list[str]:
        """What the text encoders do not see of these prompts, a line for each cut."""
        return self._worker.session.cuts(prompts)

    def abandon(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for these any more."""
        for job in jobs:
            job.abandoned = True
        self._waiting.wake()

    def _session_of(self, bundle: Bundle) -> Session:
        options = self.options.session
        kept = options.shapes_kept + len(batch_sizes(self._most_together))
        session = Session(bundle, structs.replace(options, shapes_kept=kept))
        if self.options.warm_up:
            try:
                session.run(PictureOptions(prompt="").completed(bundle.manifest))
            except BaseException:
                session.close()
                raise
        return session

    def _refuse(self) -> None:
        self.metrics.reloads.labels("refused").inc()

    def _take_up(self, session: Session) -> None:
        self._worker.replace(session)
        self.metrics.reloads.labels("taken up").inc()
        log.info("%s was replaced; the new bundle draws from the next picture on", self.path)
