"""Forms with files, as browsers and OpenAI's clients send them, read into what JSON would have said."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import python_multipart  # noqa: F401  # what Starlette reads forms with; without it this must name the extra
from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from hsexport.deploy.serve.api import EditsRequest
from hsruntime.options import PICTURE_FILES

MOST_PARTS = 64
LONGEST_NUMBER = 64


class _InMemory(MultiPartParser):
    """Starlette's own puts files beyond 1 MB on the disk; how large a body may be is bounded before."""

    spool_max_size = 2**40

    def on_part_end(self) -> None:
        """Starlette's own reads what is not UTF-8 as Latin-1."""
        if self._current_part.file is None:
            try:
                self._current_part.data.decode()
            except UnicodeDecodeError as err:
                raise MultiPartException(f"{self._current_part.field_name} is not text: {err}") from err
        super().on_part_end()


async def edits_request(request: Request) -> EditsRequest:
    """The form of a request. Raises HTTPException or RequestValidationError for what is none, or has other fields."""
    parts = await _parts(request.headers, request.stream())
    fields: dict[str, Any] = {}
    for name, value in parts:
        name = name.removesuffix("[]")  # as clients write a field that may hold several
        if name in fields:
            told = "one picture is taken, several were sent" if name in PICTURE_FILES else "it was sent twice"
            raise HTTPException(400, f"{name}: {told}")
        fields[name] = value
    try:
        return EditsRequest.model_validate({name: _read(name, value) for name, value in fields.items()})
    except ValidationError as err:
        raise RequestValidationError(err.errors(include_url=False, include_input=False)) from err


async def _parts(headers: Headers, stream: AsyncGenerator[bytes, None]) -> list[tuple[str, str | bytes]]:
    """Names and values; files as bytes."""
    parser = _InMemory(headers, stream, max_files=MOST_PARTS, max_fields=MOST_PARTS, max_part_size=2**40)
    try:
        form = await parser.parse()
    except MultiPartException as err:
        raise HTTPException(400, f"the body is no form: {err.message}") from err
    try:
        return [
            (name, await value.read() if isinstance(value, UploadFile) else value) for name, value in form.multi_items()
        ]
    finally:
        await form.close()


def _read(name: str, value: str | bytes) -> Any:
    """As JSON would have it: numbers and truth values as such, nothing for what was left empty."""
    if name in PICTURE_FILES:
        return value
    if isinstance(value, bytes):
        raise HTTPException(400, f"{name}: expected text, a file was sent")
    if name in _TEXTS or name not in EditsRequest.model_fields:
        return value
    if not value:
        return None
    with suppress(ValueError):
        return json.loads(value) if len(value) <= LONGEST_NUMBER else value
    return value


_TEXTS = {
    name
    for name, schema in EditsRequest.model_json_schema()["properties"].items()
    if "string" in {kind.get("type") for kind in schema.get("anyOf", [schema])}
}
"""Fields whose values are not read, whatever they look like."""
