"""What is asked for becomes orders, is waited for, and becomes an answer."""

from __future__ import annotations

import asyncio
import io
import time
from base64 import b64encode
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import HTTPException, Request
from PIL import Image

from hsexport.deploy.serve.api import ImagesRequest, ImagesResponse, Picture, Provenance
from hsexport.deploy.serve.service import AbandonedError, Service
from hsexport.deploy.serve.waiting import STOPPED, Drawn, Job
from hsruntime import Session
from hsruntime.facts import size_text
from hsruntime.options import PICTURE_FILES
from hsruntime.picture.picture import region_overlay
from hsruntime.telling import warnings_kept

CLIENT_GONE = 499
"""nginx's status for a caller that did not wait; nobody reads it but the metrics."""
LOOK_FOR_CLIENT_SECONDS = 0.25


@dataclass(frozen=True)
class Ordered:
    """What waits to be drawn."""

    asked: ImagesRequest
    """Without its pictures, which need not be held any longer."""
    jobs: list[Job]
    told: list[str]
    """How pictures were taken otherwise than they were given."""


class Desk:
    """Takes orders, in the event loop."""

    def __init__(self, service: Service) -> None:
        self._service = service
        # A picture of the largest size that is read takes up to a gigabyte while it is unpacked.
        self._unpacking = asyncio.Semaphore(1)

    async def ordered(self, asked: ImagesRequest) -> Ordered:
        """Raises what `Service.submit` raises."""
        has_pictures = any(getattr(asked, name) is not None for name in PICTURE_FILES)
        async with self._unpacking if has_pictures else nullcontext():
            jobs, told = await asyncio.to_thread(self._submitted, asked)
        return Ordered(asked.model_copy(update=dict.fromkeys(PICTURE_FILES)), jobs, told)

    def _submitted(self, asked: ImagesRequest) -> tuple[list[Job], list[str]]:
        with warnings_kept() as told:
            return self._service.submit(asked.pictures()), told


async def answered(service: Service, ordered: Ordered, client: Request) -> ImagesResponse:
    """Waits for all pictures, as long as the caller does.

    Raises HTTPException (504, 499), or what drawing failed with.
    """
    jobs = ordered.jobs
    pictures = asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs))
    pictures.add_done_callback(_retrieved)
    try:
        while not pictures.done():
            if await client.is_disconnected():
                raise HTTPException(CLIENT_GONE, "the caller is gone")
            if _late(jobs):
                raise _too_late(service)
            await asyncio.wait([pictures], timeout=LOOK_FOR_CLIENT_SECONDS)
        drawn = pictures.result()
    except (AbandonedError, asyncio.CancelledError):
        if _late(jobs):
            raise _too_late(service) from None
        if not service.ready:
            raise STOPPED from None
        raise
    finally:
        service.abandon(jobs)
    return await asyncio.to_thread(_answer, ordered, drawn, service.session)


def _retrieved(pictures: asyncio.Future[Any]) -> None:
    """What they failed with after their caller had gone is nobody's news."""
    if not pictures.cancelled():
        pictures.exception()


def _late(jobs: list[Job]) -> bool:
    return any(time.monotonic() > job.deadline for job in jobs)


def _too_late(service: Service) -> HTTPException:
    seconds = service.options.timeout
    return HTTPException(504, f"the pictures were not there within {seconds:g} s; ask for fewer, or later")


def _answer(ordered: Ordered, pictures: list[Drawn], session: Session) -> ImagesResponse:
    """Encodes; to be called off the event loop."""
    asked, last = ordered.asked, pictures[-1]
    height, width = last.result.image.shape[:2]
    texts = asked.prompt, asked.prompt_2 or "", asked.prompt_3 or ""
    return ImagesResponse(
        created=int(time.time()),
        data=[_picture(asked, drawn) for drawn in pictures],
        size=size_text((width, height)),
        output_format=asked.output_format,
        hsexport=Provenance(
            schedule=str(last.result.schedule),
            segments=list(last.result.segments),
            waited_seconds=last.waited,
            batch=last.together,
            adapters=list(last.result.adapters),
            warnings=[*ordered.told, *session.cuts([texts, asked.negative_prompt or ""])],
        ),
    )


def _picture(asked: ImagesRequest, drawn: Drawn) -> Picture:
    result, region = drawn.result, None
    if asked.region and result.region is not None:
        region = _encoded(region_overlay(result.image, result.region[0], result.grid), "png", 95)
    encoded = _encoded(result.image, asked.output_format, asked.output_compression)
    return Picture(b64_json=encoded, seed=result.seeds[0], region_b64_json=region)


def _encoded(picture: np.ndarray, form: str, quality: int) -> str:
    """(H, W, 3) uint8 as base64 of a file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, form, **({} if form == "png" else {"quality": quality}))
    return b64encode(file.getvalue()).decode()
