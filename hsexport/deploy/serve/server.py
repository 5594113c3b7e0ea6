"""uvicorn around the application: listening, slow clients, and an end in good order."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from hsengines.errors import HSError
from hsexport.deploy.serve.app import HttpOptions, make_app
from hsexport.deploy.serve.service import Service


class AddressError(HSError):
    """An address that cannot be listened on."""


class _PromptProtocol(H11Protocol):
    """Closes connections that do not get to a first request: uvicorn itself waits for them for ever."""

    seconds = 10.0

    def connection_made(self, transport) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        super().connection_made(transport)
        self._patience = self.loop.call_later(self.seconds, self._lose_patience)

    def _lose_patience(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.cancel()
        super().connection_lost(exc)


class _DrainingServer(uvicorn.Server):
    """The first SIGTERM or Ctrl-C drains and ends with exit code 0; a second one does not wait."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, *_: object) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self._service.drain()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. Raises AddressError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as err:
        raise AddressError(
            f"{host}:{port} cannot be listened on: {err.strerror}", "name another --host or --port"
        ) from err


def serve(
    service: Service, sock: socket.socket, options: HttpOptions, *, most_connections: int, log_level: str
) -> None:
    """Answers until SIGTERM or Ctrl-C, then finishes what was begun."""
    config = uvicorn.Config(
        make_app(service, options),
        http=type("PromptProtocol", (_PromptProtocol,), {"seconds": options.header_seconds}),
        limit_concurrency=most_connections,
        timeout_graceful_shutdown=round(options.drain_seconds),
        log_level=log_level,
        server_header=False,
    )
    _DrainingServer(config, service).run([sock])
