"""Errors as HTTP: a status, and one line in OpenAI's shape."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hsengines.errors import HSError, ShapeError, as_text
from hsexport.deploy.serve.api import ErrorBody, ErrorResponse
from hsexport.deploy.serve.waiting import QueueFullError, StoppingError
from hsruntime.request import RequestError
from hsruntime.schedule.schedule import ScheduleError

log = logging.getLogger("hsexport.deploy.serve")

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    503: "unavailable_error",
    504: "timeout_error",
}
RETRY_AFTER = {"retry-after": "1"}


def status_of(err: HSError) -> int:
    """The caller's fault, the moment's, or ours."""
    if isinstance(err, QueueFullError):
        return 429
    if isinstance(err, StoppingError):
        return 503
    return 400 if isinstance(err, RequestError | ShapeError | ScheduleError) else 500


def error_response(
    status: int, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """`message` as OpenAI's clients look for it."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    # As text: a lone surrogate out of somebody's JSON cannot be sent as UTF-8.
    body = ErrorResponse(error=ErrorBody(message=as_text(message), type=kind, param=param))
    again = RETRY_AFTER if status in (429, 503) else {}
    return JSONResponse(body.model_dump(), status, {**(headers or {}), **again})


def register(app: FastAPI) -> None:
    """Every error of a route as `error_response`."""

    @app.exception_handler(HSError)
    async def of_ours(_: Request, err: HSError) -> JSONResponse:
        status = status_of(err)
        if status == 500:
            log.error("%s", err)
        return error_response(status, str(err))

    @app.exception_handler(RequestValidationError)
    async def of_the_body(_: Request, err: RequestValidationError) -> JSONResponse:
        first = err.errors()[0]
        if first["type"] == "json_invalid":
            return error_response(400, f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}")
        where = [str(part) for part in first["loc"] if part != "body"]
        param = where[0].encode("utf-8", "backslashreplace").decode() if where else None
        message = first["msg"] if not where else f"{'.'.join(where)}: {first['msg']}"
        return error_response(400, message, param=param)

    @app.exception_handler(HTTPException)
    async def of_http(_: Request, err: HTTPException) -> JSONResponse:
        return error_response(err.status_code, str(err.detail), headers=err.headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, err: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=err)
        return error_response(500, "an error inside the server; its log says more")
