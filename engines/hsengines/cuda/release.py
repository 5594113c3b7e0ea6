"""Gives things back to CUDA when nothing uses them any more."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

from hsengines.cuda.api import call_quietly


class Releases:
    """Takes what finalizers drop and gives it back once the stream is done with it.

    Work that was enqueued may still use a tensor whose last reference is gone, and CUDA keeps no account of what a
    captured graph refers to: so the stream is waited for first. While a capture is on, waiting and freeing would
    break it, so both are put off to its end. Finalizers run in any thread at any time, hence the lock.
    """

    def __init__(self, stream: int) -> None:
        self._stream: int | None = stream
        self._lock = RLock()
        self._held = False
        self._waiting: list[tuple[str, Any]] = []

    def release(self, function: str, handle: Any) -> None:
        """Calls CUDA's `function` on `handle`, now or at the end of the capture. Never raises."""
        with self._lock:
            if self._held:
                self._waiting.append((function, handle))
                return
            if self._stream is not None:
                call_quietly("cudaStreamSynchronize", self._stream)
            call_quietly(function, handle)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Puts releases off while a capture is on, and garbage collection with them.

        A collection could destroy an engine, and what an engine's own destructor calls would break the capture.
        """
        collecting = gc.isenabled()
        gc.disable()
        with self._lock:
            self._held = True
        try:
            yield
        finally:
            self._let_go()
            if collecting:
                gc.enable()

    def _let_go(self) -> None:
        with self._lock:
            self._held = False
            waiting, self._waiting = self._waiting, []
        for function, handle in waiting:
            self.release(function, handle)

    def stream_is_gone(self) -> None:
        """From here on there is nothing to wait for."""
        with self._lock:
            self._stream = None
