"""A call in a process of its own, for memory is counted by process."""

from __future__ import annotations

import multiprocessing
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Answer = TypeVar("Answer")
STATUS = Path("/proc/self/status")
EVERY_SECONDS = 0.02


def in_new_process(call: Callable[..., Answer], *arguments: object) -> tuple[Answer, int]:
    """What the call answers, and the most bytes that its process held.

    Raises whatever the call raises, and BrokenProcessPool where the process was killed, as for want of memory.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measured, call, arguments).result()


@contextmanager
def private_peak() -> Iterator[list[int]]:
    """Fills a list of one number: the most bytes that this process held and that no file stands behind.

    Pages of a mapped file count as resident, too, but the system may drop them when memory is short; these it may not.
    """
    peak, stop = [0], threading.Event()

    def sample() -> None:
        while not stop.wait(EVERY_SECONDS):
            peak[0] = max(peak[0], _private_bytes())

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield peak
    finally:
        stop.set()
        sampler.join()


def _private_bytes() -> int:
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def _measured(call: Callable[..., Answer], arguments: tuple[object, ...]) -> tuple[Answer, int]:
    return call(*arguments), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
