"""Errors as HTTP: a status, and one line in OpenAI's shape."""

from __future__ import annotations

import logging

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
    status: int, message: str, *, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """`message` as OpenAI's clients look for it."""
    # A lone surrogate out of somebody's JSON cannot be sent as UTF-8.
    told = as_text(message)
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    body = ErrorResponse(error=ErrorBody(message=told, type=kind, param=param, code=None))
    again = RETRY_AFTER if status in (429, 503) else {}
    return JSONResponse(body.model_dump(), status, {**(headers or {}), **again})


def register(app: FastAPI) -> None:
    """Every error of a route as `error_response`."""
    app.add_exception_handler(HSError, _of_ours)
    app.add_exception_handler(RequestValidationError, _of_the_body)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _unforeseen)


async def _of_ours(_: Request, err: Exception) -> JSONResponse:
    assert isinstance(err, HSError)
    status = status_of(err)
    if status == 500:
        log.error("%s", err)
    return error_response(status, str(err))


async def _of_the_body(_: Request, err: Exception) -> JSONResponse:
    assert isinstance(err, RequestValidationError)
    first = err.errors()[0]
    if first["type"] == "json_invalid":
        return error_response(400, f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}")
    where = [str(part) for part in first["loc"] if part != "body"]
    param = where[0].encode("utf-8", "backslashreplace").decode() if where else None
    message = first["msg"] if not where else f"{'.'.join(where)}: {first['msg']}"
    return error_response(400, message, param=param)


async def _of_http(_: Request, err: Exception) -> JSONResponse:
    assert isinstance(err, HTTPException)
    return error_response(err.status_code, str(err.detail), headers=dict(err.headers or {}))


async def _unforeseen(request: Request, err: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=err)
    return error_response(500, "an error inside the server; its log says more")
