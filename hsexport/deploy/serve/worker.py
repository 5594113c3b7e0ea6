"""The one thread that draws: a session is not to be called from two."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from threading import Thread
from time import monotonic

from hsexport.deploy.serve.waiting import STOPPED, Drawn, Job, Waiting
from hsruntime import Session
from hsruntime.batching import merged, parted
from hsruntime.request import Progress, Result
from hsruntime.text.tokenize import PromptCutWarning


class AbandonedError(Exception):
    """Nobody waits for any picture of a batch any more."""


Observe = Callable[[list[float], Result], None]
"""Hears how long a batch's pictures waited, each, and how it went."""


class Worker:
    """Takes batches from the queue until it is stopped and empty; answers every job once."""

    def __init__(self, session: Session, waiting: Waiting, observe: Observe) -> None:
        self.session = session
        self._waiting = waiting
        self._observe = observe
        self._next: Session | None = None
        self._thread = Thread(target=self._work, name="hsexport-draws", daemon=True)

    def start(self) -> None:
        """Begins to draw."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether anybody draws."""
        return self._thread.is_alive()

    def join(self, seconds: float) -> bool:
        """Waits for the end of a stopped queue; whether it came."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def replace(self, session: Session) -> None:
        """Hands over another bundle's session, taken up between two batches; the old one is closed there."""
        self._next = session
        self._waiting.wake()

    def _work(self) -> None:
        while not self._waiting.ended:
            self._take_up_the_next()
            jobs = [
                job for job in self._waiting.take(self.session.manifest) if job.future.set_running_or_notify_cancel()
            ]
            if jobs:
                self._draw(jobs)
        self.session.close()

    def _take_up_the_next(self) -> None:
        following, self._next = self._next, None
        if following:
            self.session.close()
            self.session = following

    def _draw(self, jobs: list[Job]) -> None:
        begun = monotonic()

        def after_step(_: Progress) -> None:
            if self._waiting.given_up:
                raise STOPPED
            if all(job.unwanted for job in jobs):
                raise AbandonedError

        try:
            requests = [job.request for job in jobs]
            with warnings.catch_warnings():  # the answer names what was cut
                warnings.simplefilter("ignore", PromptCutWarning)
                result = self.session.run(merged(requests, after_step))
        except Exception as err:  # whatever it is, those who wait must hear of it, and the next batch is drawn
            for job in jobs:
                self._waiting.fail(job, err)
        else:
            waits = [begun - job.queued for job in jobs]
            self._observe(waits, result)
            for job, mine, waited in zip(jobs, parted(result, requests), waits, strict=True):
                job.future.set_result(Drawn(mine, waited, len(jobs)))
