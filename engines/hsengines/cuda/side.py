"""A second stream beside a device's own, for work that may run at the same time."""

from __future__ import annotations

from collections.abc import Sequence

from hsengines.cuda import api
from hsengines.cuda.api import call, call_quietly
from hsengines.cuda.memory import Scratch
from hsengines.device import Enqueue


class SideStream:
    """The stream, scratch memory of its own, and the two events that tie it to the main one."""

    def __init__(self) -> None:
        flags, untimed = api.cudart.cudaStreamNonBlocking, api.cudart.cudaEventDisableTiming
        self.stream = int(call("cudaStreamCreateWithFlags", flags, doing="creating a second stream"))
        self.scratch: Scratch | None = None
        self._events = [call("cudaEventCreateWithFlags", untimed, doing="creating an event") for _ in range(2)]

    def fork(self, main: int, first: Sequence[Enqueue], second: Sequence[Enqueue]) -> Enqueue:
        """`first`, which is bound to `main`, and `second`, bound to this stream, between a fork and a join.

        Everything before it on `main` is done before either begins, and `main` goes on when both are done: so it can
        be captured like any other work, and whoever waits for `main` has waited for this stream.
        """
        calls, (forked, joined) = (*second, *first), self._events

        def enqueue() -> None:
            call("cudaEventRecord", forked, main, doing="forking a stream")
            call("cudaStreamWaitEvent", self.stream, forked, 0, doing="forking a stream")
            for each in calls:
                each()
            call("cudaEventRecord", joined, self.stream, doing="joining a stream")
            call("cudaStreamWaitEvent", main, joined, 0, doing="joining a stream")

        return enqueue

    def close(self) -> None:
        """Destroys events and stream. Never raises; nothing may be enqueued on it afterwards."""
        self.scratch = None
        while self._events:
            call_quietly("cudaEventDestroy", self._events.pop())
        call_quietly("cudaStreamDestroy", self.stream)
