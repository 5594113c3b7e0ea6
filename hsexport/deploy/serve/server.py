"""uvicorn around the application: listening, slow clients, and an end in good order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread, Timer

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from hsengines.errors import HSError
from hsexport.deploy.serve.app import make_app
from hsexport.deploy.serve.service import Service


class _PromptProtocol(H11Protocol):
    """Has a deadline for the headers of each request, not of a connection's first alone, and for what it writes.

    Beyond `most` connections the one that has been waited for longest gives way to the new one, so that a health probe
    finds a place whoever else is there. uvicorn itself waits for ever, and then answers probes with 503.
    """

    seconds = 10.0
    most = 256
    silent: dict[_PromptProtocol, None]
    """Connections whose headers, body or reading is waited for, the longest first; of one server."""
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        super().connection_made(transport)
        self._be_patient()
        if len(self.connections) > self.most:
            next(iter(self.silent)).transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._answering:
            self._stop_waiting(body_is_there=not self.cycle.more_body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._answering and not self.transport.is_closing():
            self._be_patient()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._be_patient()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._answering:
            self._stop_waiting(body_is_there=not self.cycle.more_body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _be_patient(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(self.seconds, self.transport.abort)
        self.silent[self] = None

    def _stop_waiting(self, *, body_is_there: bool = True) -> None:
        """For the caller; of a body that is still to come, the application keeps the time."""
        if self._patience:
            self._patience.cancel()
            self._patience = None
        if body_is_there:
            self.silent.pop(self, None)


class _DrainingServer(uvicorn.Server):
    """The first SIGTERM or Ctrl-C drains; a second one, or the end of the time for it, gives up what is not drawn."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._waiting = service.waiting
        self._giving_up = Timer(service.options.drain_timeout, service.waiting.give_up)
        self._giving_up.daemon = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)
        try:
            yield
        finally:
            self._giving_up.cancel()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # the end has come, and has an exit code

    def _end(self, *_: object) -> None:
        if self.should_exit:
            # On a thread: a signal may come while this one holds the very locks.
            Thread(target=self._waiting.give_up, daemon=True).start()
            return
        self.should_exit = True
        self._giving_up.start()
        Thread(target=self._waiting.stop, daemon=True).start()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. Raises HSError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as err:
        raise HSError(f"{host}:{port} cannot be listened on: {err.strerror}", "name another --host or --port") from err


GRACE_SECONDS = 5
"""For answers, and for the step that is being computed, once pictures are given up."""


def serve(service: Service, sock: socket.socket, log_level: str) -> bool:
    """Answers until SIGTERM or Ctrl-C, then finishes what was begun; whether all of it was.

    Where a step goes on after everything was given up, the process ends here, with exit code 1.
    """
    options = service.options
    own = {"seconds": options.header_timeout, "most": options.max_connections, "silent": {}}
    config = uvicorn.Config(
        make_app(service),
        http=type("PromptProtocol", (_PromptProtocol,), own),
        timeout_graceful_shutdown=round(options.drain_timeout) + GRACE_SECONDS,
        log_level=log_level,
        server_header=False,
    )
    _DrainingServer(config, service).run([sock])
    if service.alive:
        logging.shutdown()
        os._exit(1)  # the interpreter's own end would abort over a thread that computes
    return not service.waiting.lost
