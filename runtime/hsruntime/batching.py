"""Requests of several callers as one: which may share a batch, and whose picture is whose afterwards."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TypeVar

import numpy as np

from hsruntime.bundle.manifest import Manifest
from hsruntime.request import Callback, Request, Result
from hsruntime.schedule.schedule import schedule_json

Order = TypeVar("Order")


def kind_of(request: Request) -> Hashable:
    """Equal for requests whose pictures come out the same together as one by one; None for one that must run alone.

    Embeddings do. So does a segment that ends once the velocity has settled: it looks at its whole batch, and
    neighbours would move its end.
    """
    if request.embeddings or any(segment.until for segment in request.schedule.segments):
        return None
    original = request.original.digest if request.original else None
    marked = request.marked.tobytes() if request.marked is not None else None
    after = tuple((pixels.shape, pixels.tobytes()) for pixels in request.references)
    schedule = schedule_json(request.schedule)
    return request.size, request.guidance_scale, schedule, original, marked, after, request.adapters


def most_together(manifest: Manifest, asked: int | None) -> int:
    """How many pictures one batch takes: as `asked`, else what the bundle was built for on a GPU, and 1 on a CPU.

    On a CPU four of the demo pair's pictures together took 3.3 times as long as one (2 cores, AMD EPYC): a fifth more
    pictures a minute, and each of them late.
    """
    built_for = manifest.facts.sizes.max_batch
    return min(built_for, asked or (1 if manifest.on_cpu else built_for))


def batches(orders: Iterable[Order], request_of: Callable[[Order], Request], most: int) -> list[list[Order]]:
    """Orders whose requests may share a batch, at most so many pictures together, in the order of each one's first."""
    found: list[list[Order]] = []
    growing: dict[Hashable, list[Order]] = {}
    for order in orders:
        request = request_of(order)
        kind = kind_of(request)
        batch = growing.get(kind)
        if kind is None or batch is None or sum(request_of(o).pictures for o in batch) + request.pictures > most:
            batch = growing[kind] = []
            found.append(batch)
        batch.append(order)
    return found


def merged(requests: Sequence[Request], callback: Callback | None = None) -> Request:
    """One request for the pictures of several of one kind, in order; `callback` stands in for theirs."""
    first = requests[0]
    return replace(
        first,
        prompts=[prompt for request in requests for prompt in request.prompts],
        negative_prompts=[prompt for request in requests for prompt in request.negative_prompts],
        latents=np.concatenate([request.latents for request in requests]),
        seeds=tuple(seed for request in requests for seed in request.seeds),
        callback=callback,
    )


def parted(result: Result, requests: Sequence[Request]) -> list[Result]:
    """What each of the merged requests gets: its own pictures, and the batch's times."""
    ends = list(accumulate(request.pictures for request in requests))
    return [_slice(result, slice(end - request.pictures, end)) for end, request in zip(ends, requests, strict=True)]


def _slice(result: Result, rows: slice) -> Result:
    return replace(
        result,
        images=result.images[rows],
        latents=result.latents[rows],
        seeds=result.seeds[rows],
        region=None if result.region is None else result.region[rows],
    )
