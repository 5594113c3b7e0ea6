"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hsruntime.request import Result

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)


class Metrics:
    """One server's collectors, in a registry of their own."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        seconds = partial(Histogram, buckets=SECONDS, registry=registry)
        counter = partial(Counter, registry=registry)
        self.requests = counter("hsexport_requests", "Requests for pictures by HTTP status.", ["status"])
        self.seconds = seconds("hsexport_request_seconds", "From request to answer.")
        self._queue_seconds = seconds("hsexport_queue_seconds", "From order to begin.")
        self._segment_seconds = seconds("hsexport_segment_seconds", "One segment of a batch, by its mode.", ["mode"])
        self._batch_seconds = seconds("hsexport_batch_seconds", "One batch: text, loop, decoding.")
        sizes = (1, 2, 4, 8, 16, 32)
        self._batch_size = Histogram("hsexport_batch_size", "Pictures in a batch.", buckets=sizes, registry=registry)
        self._pictures = counter("hsexport_pictures", "Pictures drawn.")
        outcomes = "Bundles taken up in place of another, by outcome."
        self.reloads = counter("hsexport_bundle_reloads", outcomes, ["outcome"])
        Gauge("hsexport_queue_length", "Pictures that wait.", registry=registry).set_function(waiting)

    def observe(self, waits: list[float], result: Result) -> None:
        """Counts a finished batch."""
        for wait in waits:
            self._queue_seconds.observe(wait)
        for segment in result.segments:
            self._segment_seconds.labels(segment.mode).observe(segment.seconds)
        self._batch_seconds.observe(result.seconds)
        self._batch_size.observe(len(waits))
        self._pictures.inc(len(waits))

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)


def measured(app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> ASGIApp:
    """ASGI middleware that counts and times the requests of these paths; one without any answer counts as 500."""

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in paths:
            await app(scope, receive, send)
            return
        begun, status = perf_counter(), 500

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, seen)
        finally:
            metrics.requests.labels(str(status)).inc()
            metrics.seconds.observe(perf_counter() - begun)

    return counted
