"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hsruntime.request import Result

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)


class Metrics:
    """One server's collectors, in a registry of their own."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "hsexport_requests", "Requests for pictures by HTTP status.", ["status"], registry=self._registry
        )
        self.seconds = Histogram(
            "hsexport_request_seconds", "From request to answer.", buckets=SECONDS, registry=self._registry
        )
        self._queue_seconds = Histogram(
            "hsexport_queue_seconds", "From order to begin.", buckets=SECONDS, registry=self._registry
        )
        self._segment_seconds = Histogram(
            "hsexport_segment_seconds",
            "One segment of a batch, by its mode.",
            ["mode"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._batch_seconds = Histogram(
            "hsexport_batch_seconds", "One batch: text, loop, decoding.", buckets=SECONDS, registry=self._registry
        )
        self._batch_size = Histogram(
            "hsexport_batch_size", "Pictures in a batch.", buckets=(1, 2, 4, 8, 16, 32), registry=self._registry
        )
        self._pictures = Counter("hsexport_pictures", "Pictures drawn.", registry=self._registry)
        self.reloads = Counter(
            "hsexport_bundle_reloads",
            "Bundles taken up in place of another, by outcome.",
            ["outcome"],
            registry=self._registry,
        )
        Gauge("hsexport_queue_length", "Pictures that wait.", registry=self._registry).set_function(waiting)

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


class Measured:
    """ASGI middleware that counts and times the requests of one path; one without any answer counts as 500."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, path: str) -> None:
        self._app = app
        self._metrics = metrics
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Looks at the status on its way out."""
        if scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        begun, status = perf_counter(), 500

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, seen)
        finally:
            self._metrics.requests.labels(str(status)).inc()
            self._metrics.seconds.observe(perf_counter() - begun)
