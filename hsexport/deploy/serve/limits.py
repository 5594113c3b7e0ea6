"""What a client may send, and how slowly: bodies over the limit get 413, bodies that do not come 408."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hsexport.deploy.serve.errors import error_response


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
        kind = headers.get(b"content-type", b"application/json").split(b";")[0].strip().lower()
        if scope["method"] == "POST" and kind != b"application/json":
            told = f"the body is {kind.decode('latin-1')}, expected application/json"
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
