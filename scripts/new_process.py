"""A call in a process of its own, for memory is counted by process."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Answer = TypeVar("Answer")


def in_new_process(call: Callable[..., Answer], *arguments: object) -> tuple[Answer, int]:
    """What the call answers, and the most bytes that its process held.

    Raises whatever the call raises, and BrokenProcessPool where the process was killed, as for want of memory.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measured, call, arguments).result()


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _measured(call: Callable[..., Answer], arguments: tuple[object, ...]) -> tuple[Answer, int]:
    return call(*arguments), peak_bytes()
