"""ASGI middleware: what a client may send, and how slowly. Too large a body gets 413, one that does not come 408."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hsexport.deploy.serve.errors import error_response

PROBES = ("/health", "/ready")
"""Paths that answer whoever asks, however busy the server is."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def request_limit(app: ASGIApp, most: int) -> ASGIApp:
    """More requests at a time than `most` get 503, but for probes."""
    at_work = 0

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal at_work
        if scope["type"] != "http" or scope["path"] in PROBES:
            await app(scope, receive, send)
            return
        if at_work >= most:
            await error_response(503, f"{most} requests are at work; try later")(scope, receive, send)
            return
        at_work += 1
        try:
            await app(scope, receive, send)
        finally:
            at_work -= 1

    return limited


def origins_checked(app: ASGIApp, hosts: Collection[str], origins: Collection[str]) -> ASGIApp:
    """A page from elsewhere, or a name that somebody else's DNS leads here, gets 403.

    hosts: names that the server goes by, beside loopback's; "*" for any. origins: pages that may ask. Addresses need
    no name and pass; browsers send no Origin of a page's own GET.
    """
    hosts = {*LOOPBACK, *(host.lower() for host in hosts)}
    origins = {origin.lower().rstrip("/") for origin in origins}

    def fault_of(scope: Scope) -> str:
        headers = {name: value.decode("latin-1").lower() for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin", "")
        name = urlsplit(f"//{host}").hostname if host else None
        if "*" not in hosts and not (name in hosts or _is_address(name)):
            return f"this server does not go by the name {host!r}; if it should: --allowed-host"
        if origin and origin not in origins and urlsplit(origin).netloc != host:
            return f"pages from {origin!r} may not ask this server; if they should: --cors-origin"
        return ""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        fault = fault_of(scope) if scope["type"] == "http" and scope["path"] not in PROBES else ""
        await (error_response(403, fault) if fault else app)(scope, receive, send)

    return checked


def _is_address(name: str | None) -> bool:
    try:
        return bool(ip_address(name or ""))
    except ValueError:
        return False


def heads_answered(app: ASGIApp) -> ASGIApp:
    """HEAD is answered as GET is, without the body."""

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        async def emptied(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        if scope["type"] == "http" and scope["method"] == "HEAD":
            await app({**scope, "method": "GET"}, receive, emptied)
        else:
            await app(scope, receive, send)

    return answered


@dataclass(frozen=True)
class Body:
    """What the body of a POST may be."""

    kind: str
    most_bytes: int
    hint: str
    """For one that is larger."""


def body_limits(app: ASGIApp, others: Body, by_path: Mapping[str, Body], seconds: float) -> ASGIApp:
    """Around an application that reads whole bodies; `seconds` are from the first byte asked for to the body's end."""

    def watched(receive: Receive, allowed: Body) -> Receive:
        seen, whole, until = 0, False, asyncio.get_running_loop().time() + seconds

        async def next_part() -> Message:
            nonlocal seen, whole
            if whole:
                return await receive()
            left = until - asyncio.get_running_loop().time()
            try:
                message = await asyncio.wait_for(receive(), max(0, left))
            except TimeoutError:
                raise HTTPException(408, f"the body did not come within {seconds:g} s") from None
            seen += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if seen > allowed.most_bytes:
                raise HTTPException(413, f"the body is larger than {allowed.most_bytes} bytes; {allowed.hint}")
            return message

        return next_part

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        allowed = by_path.get(scope["path"], others)
        given = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
        kind = given.split(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != allowed.kind:
            told = f"the body is {kind or 'of no stated type'}, expected {allowed.kind}"
            await error_response(415, told)(scope, receive, send)
            return
        await app(scope, watched(receive, allowed), send)

    return limited
