"""What a client may send, and how slowly: bodies over the limit get 413, bodies that do not come 408."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hsexport.deploy.serve.errors import error_response

PROBES = ("/health", "/ready")
"""Paths that answer whoever asks, however busy the server is."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class RequestLimit:
    """ASGI middleware: more requests at a time than `most` get 503, but for probes."""

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        self._app = app
        self._most = most
        self._now = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what is at work."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        if self._now >= self._most:
            await error_response(503, f"{self._most} requests are at work; try later")(scope, receive, send)
            return
        self._now += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._now -= 1


class Origins:
    """ASGI middleware: a page from elsewhere, or a name that somebody else's DNS leads here, gets 403.

    Addresses need no name and pass; browsers send no Origin of a page's own GET.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], origins: Collection[str]) -> None:
        """hosts: names that the server goes by, beside loopback's; "*" for any. origins: pages that may ask."""
        self._app = app
        self._hosts = {*LOOPBACK, *(host.lower() for host in hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Looks at Host and Origin."""
        fault = self._fault(scope) if scope["type"] == "http" and scope["path"] not in PROBES else ""
        await (error_response(403, fault) if fault else self._app)(scope, receive, send)

    def _fault(self, scope: Scope) -> str:
        headers = {name: value.decode("latin-1").lower() for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin", "")
        name = urlsplit(f"//{host}").hostname if host else None
        if "*" not in self._hosts and not (name in self._hosts or _is_address(name)):
            return f"this server does not go by the name {host!r}; if it should: --allowed-host"
        if origin and origin not in self._origins and urlsplit(origin).netloc != host:
            return f"pages from {origin!r} may not ask this server; if they should: --cors-origin"
        return ""


def _is_address(name: str | None) -> bool:
    try:
        return bool(ip_address(name or ""))
    except ValueError:
        return False


class Heads:
    """ASGI middleware: HEAD is answered as GET is, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Empties bodies on their way out."""

        async def emptied(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        if scope["type"] == "http" and scope["method"] == "HEAD":
            await self._app({**scope, "method": "GET"}, receive, emptied)
        else:
            await self._app(scope, receive, send)


class BodyLimits:
    """ASGI middleware around an application that reads whole bodies."""

    def __init__(self, app: ASGIApp, *, most_bytes: int, seconds: float) -> None:
        """seconds: from the first byte asked for to the body's end."""
        self._app = app
        self._most_bytes = most_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers itself where the headers say enough; else counts and times what comes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most_bytes:
            await self._too_large()(scope, receive, send)
            return
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if scope["method"] == "POST" and kind != b"application/json":
            told = f"the body is {kind.decode('latin-1') or 'of no stated type'}, expected application/json"
            await error_response(415, told)(scope, receive, send)
            return
        await self._app(scope, self._watched(receive), send)

    def _too_large(self) -> Any:
        response = error_response(413, f"the body is larger than {self._most_bytes} bytes; shorten the prompt")
        response.headers["connection"] = "close"  # the rest of the body is not read
        return response

    def _watched(self, receive: Receive) -> Receive:
        seen, whole, until = 0, False, asyncio.get_running_loop().time() + self._seconds

        async def watched() -> Message:
            nonlocal seen, whole
            if whole:
                return await receive()
            left = until - asyncio.get_running_loop().time()
            try:
                message = await asyncio.wait_for(receive(), max(0, left))
            except TimeoutError:
                raise HTTPException(408, f"the body did not come within {self._seconds:g} s") from None
            seen += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if seen > self._most_bytes:
                raise HTTPException(413, f"the body is larger than {self._most_bytes} bytes; shorten the prompt")
            return message

        return watched
