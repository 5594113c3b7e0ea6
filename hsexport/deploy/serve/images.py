"""`/v1/images/generations`: waiting for what is asked for, and the pictures to an answer."""

from __future__ import annotations

import asyncio
import io
import time
from base64 import b64encode
from typing import Any

import numpy as np
from fastapi import HTTPException, Request
from PIL import Image

from hsexport.deploy.serve.api import ImagesRequest, ImagesResponse, Picture, Provenance
from hsexport.deploy.serve.service import AbandonedError, Service
from hsexport.deploy.serve.waiting import STOPPED, Drawn, Job
from hsruntime import Session
from hsruntime.facts import size_text
from hsruntime.options import PictureOptions
from hsruntime.picture.picture import region_overlay

CLIENT_GONE = 499
"""nginx's status for a caller that did not wait; nobody reads it but the metrics."""
LOOK_FOR_CLIENT_SECONDS = 0.25


async def answered(service: Service, asked: ImagesRequest, client: Request) -> ImagesResponse:
    """Waits for all pictures, as long as the caller does.

    Raises what `Service.submit` raises, HTTPException (504, 499), or what drawing failed with.
    """
    orders = asked.pictures()
    jobs = await asyncio.to_thread(service.submit, orders)
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
    return await asyncio.to_thread(_answer, asked, orders, drawn, service.session)


def _retrieved(pictures: asyncio.Future[Any]) -> None:
    """What they failed with after their caller had gone is nobody's news."""
    if not pictures.cancelled():
        pictures.exception()


def _late(jobs: list[Job]) -> bool:
    return any(time.monotonic() > job.deadline for job in jobs)


def _too_late(service: Service) -> HTTPException:
    seconds = service.options.timeout
    return HTTPException(504, f"the pictures were not there within {seconds:g} s; ask for fewer, or later")


def _answer(
    asked: ImagesRequest, orders: list[PictureOptions], pictures: list[Drawn], session: Session
) -> ImagesResponse:
    """Encodes; to be called off the event loop."""
    last = pictures[-1]
    height, width = last.result.image.shape[:2]
    texts = asked.prompt, asked.prompt_2 or "", asked.prompt_3 or ""
    return ImagesResponse(
        created=int(time.time()),
        data=[_picture(asked, order, drawn) for order, drawn in zip(orders, pictures, strict=True)],
        size=size_text((width, height)),
        output_format=asked.output_format,
        hsexport=Provenance(
            schedule=str(last.result.schedule),
            segments=list(last.result.segments),
            waited_seconds=last.waited,
            batch=last.together,
            adapters=list(last.result.adapters),
            warnings=session.cuts([texts, asked.negative_prompt or ""]),
        ),
    )


def _picture(asked: ImagesRequest, order: PictureOptions, drawn: Drawn) -> Picture:
    result, region = drawn.result, None
    if asked.region and result.region is not None:
        region = _encoded(region_overlay(result.image, result.region[0], result.grid), "png", 95)
    encoded = _encoded(result.image, asked.output_format, asked.output_compression)
    assert isinstance(order.seed, int)  # `ImagesRequest.pictures` gave each its own
    return Picture(b64_json=encoded, seed=order.seed, region_b64_json=region)


def _encoded(picture: np.ndarray, form: str, quality: int) -> str:
    """(H, W, 3) uint8 as base64 of a file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, form, **({} if form == "png" else {"quality": quality}))
    return b64encode(file.getvalue()).decode()
