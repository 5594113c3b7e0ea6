"""The server behind the HTTP: orders in, pictures out, one bundle at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from time import monotonic

from msgspec import structs

from hsengines.errors import HSError
from hsexport.deploy.serve.metrics import Metrics
from hsexport.deploy.serve.options import ServerOptions
from hsexport.deploy.serve.waiting import STOPPED, Drawn, Job, Waiting, batch_sizes
from hsruntime import Session
from hsruntime.batching import merged, most_together, parted
from hsruntime.bundle.manifest import BundleError, Manifest
from hsruntime.bundle.reader import Bundle, open_bundle, read_manifest
from hsruntime.options import PictureOptions, SessionOptions
from hsruntime.request import Progress, Request, checked_latents
from hsruntime.telling import warnings_kept

log = logging.getLogger("hsexport.deploy.serve")


class AbandonedError(Exception):
    """Nobody waits for any picture of a batch any more."""


class Service:
    """A bundle at work. One thread draws, since a session is not to be called from two; another one looks after the
    bundle's manifest, which holds every file's hash. Everything but `start` and `close` is safe from any thread.
    """

    def __init__(self, path: Path, options: ServerOptions, session: SessionOptions) -> None:
        """Opens, and draws one picture beforehand. Raises what `Session.open` raises."""
        self.path = path
        self.options = options
        bundle = open_bundle(path)
        together = most_together(bundle.manifest, options.max_batch)
        kept = session.shapes_kept + len(batch_sizes(together))
        self._session_options = structs.replace(session, shapes_kept=kept)
        self.waiting = Waiting(options.queue, together, options.gather_ms / 1000)
        self.metrics = Metrics(lambda: len(self.waiting))
        self.session = self._session_of(bundle)
        """Of the bundle that is at work; only the thread may run it."""
        self._next: Session | None = None
        self._thread = Thread(target=self._work, name="hsexport-draws", daemon=True)
        self._watch = Thread(target=self._look, args=(bundle.manifest,), name="hsexport-watches", daemon=True)
        self._closing = Event()

    def start(self) -> None:
        """Begins to draw, and to look after the bundle."""
        self._thread.start()
        if self.options.watch:
            self._watch.start()

    def close(self) -> None:
        """Draws what waits, for as long as a drain may take, and frees everything."""
        self._closing.set()
        if self._watch.is_alive():
            self._watch.join()  # a bundle that is being opened is opened to its end
        self.waiting.stop()
        self._thread.join(self.options.drain_timeout)
        if self.alive:
            self.waiting.give_up()
            self._thread.join(1)
        if self.alive:
            log.warning("a picture was still being drawn after %.0f s", self.options.drain_timeout)

    @property
    def alive(self) -> bool:
        """Whether pictures can still be drawn by this process at all."""
        return self._thread.is_alive()

    @property
    def ready(self) -> bool:
        """Whether a request would be taken, if the queue has room."""
        return self.alive and not self.waiting.stopping

    def submit(self, orders: Sequence[PictureOptions]) -> list[Job]:
        """Checks orders that differ in their seeds alone, and puts all or none into the queue.

        Raises RequestError, ShapeError or ScheduleError for what the bundle cannot draw; QueueFullError; StoppingError.
        """
        session, deadline = self.session, monotonic() + self.options.timeout
        requests = _completed(orders, session.manifest)
        for request in requests:
            session.check_adapters(request)
        pairs = zip(orders, requests, strict=True)
        jobs = [Job(order, session.manifest, request, deadline) for order, request in pairs]
        self.waiting.add(jobs)
        return jobs

    def abandon(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for these any more."""
        for job in jobs:
            job.abandoned = True
        self.waiting.wake()

    def _session_of(self, bundle: Bundle) -> Session:
        session = Session(bundle, self._session_options)
        if self.options.warm_up:
            try:
                session.run(PictureOptions(prompt="").completed(bundle.manifest))
            except BaseException:
                session.close()
                raise
        return session

    def _look(self, at_work: Manifest) -> None:
        complaint = ""
        while not self._closing.wait(self.options.watch):
            try:
                if read_manifest(self.path) != at_work:
                    at_work, complaint = self._take_up(open_bundle(self.path)), ""
            except Exception as err:
                # Half copied, broken, or too large beside the one at work, which goes on; the next look tries again.
                told = str(err) if isinstance(err, HSError | OSError) else f"{type(err).__name__}: {err}"
                if told != complaint:
                    self.metrics.reloads.labels("refused").inc()
                    words = "%s has changed, and what lies there cannot be used: %s; the bundle that was opened goes on"
                    log.warning(words, self.path, told)
                complaint = told

    def _take_up(self, bundle: Bundle) -> Manifest:
        """Opens a session of whole, checked files, which the drawing thread goes on with between two batches."""
        session = self._session_of(bundle)
        if read_manifest(self.path) != bundle.manifest:  # some engines may be one bundle's and some the other's
            session.close()
            raise BundleError("it was replaced while it was being opened", "it is opened again")
        self._next = session
        self.waiting.wake()
        self.metrics.reloads.labels("taken up").inc()
        log.info("%s was replaced; the new bundle draws from the next picture on", self.path)
        return bundle.manifest

    def _work(self) -> None:
        """Draws batches until the queue is stopped and empty; answers every job once."""
        while not self.waiting.ended:
            following, self._next = self._next, None
            if following:
                self.session.close()
                self.session = following
            jobs = [
                job for job in self.waiting.take(self.session.manifest) if job.future.set_running_or_notify_cancel()
            ]
            if jobs:
                self._draw(jobs)
        self.session.close()

    def _draw(self, jobs: list[Job]) -> None:
        begun = monotonic()

        def after_step(_: Progress) -> None:
            if self.waiting.given_up:
                raise STOPPED
            if all(job.unwanted for job in jobs):
                raise AbandonedError

        try:
            requests = [job.request for job in jobs]
            with warnings_kept():  # the answer names what was cut
                result = self.session.run(merged(requests, after_step))
        except Exception as err:  # whatever it is, those who wait must hear of it, and the next batch is drawn
            for job in jobs:
                self.waiting.fail(job, err)
        else:
            waits = [begun - job.queued for job in jobs]
            self.metrics.observe(waits, result)
            for job, mine, waited in zip(jobs, parted(result, requests), waits, strict=True):
                job.future.set_result(Drawn(mine, waited, len(jobs)))


def _completed(orders: Sequence[PictureOptions], manifest: Manifest) -> list[Request]:
    """Each order's request; what they share is checked, and a picture unpacked, once."""
    first = orders[0].completed(manifest)
    requests = [first]
    for order in orders[1:]:
        assert isinstance(order.seed, int)
        latents = checked_latents(manifest, None, first.size, (order.seed,))
        requests.append(replace(first, seeds=(order.seed,), latents=latents))
    return requests
