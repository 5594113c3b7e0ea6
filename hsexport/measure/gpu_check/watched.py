"""A session that shows what a user's does not: its device, its replays, and the latents before decoding."""

from __future__ import annotations

import numpy as np

from hsengines.device import Device, Replay
from hsexport.measure.gpu_check.plan import PROMPT, Plan
from hsruntime.bundle.reader import Bundle
from hsruntime.options import SessionOptions
from hsruntime.request import Request
from hsruntime.session import Result, Session


class WatchedSession(Session):
    """`latents` (B, C, h, w) float32 are those of the last picture."""

    latents: np.ndarray

    def __enter__(self) -> WatchedSession:
        return self

    @property
    def device(self) -> Device:
        """Where it all runs."""
        return self._device

    def picture(self, schedule: str) -> Result:
        """One picture of the check's own prompt and noise."""
        return self.generate(PROMPT, seed=0, schedule=schedule)

    def replay_from_noise(self, request: Request, mode: str) -> Replay:
        """What the loop launches for one step of `mode`, with `request`'s noise in place: steps count on."""
        loop = self._open_executors().of(self._loop_shape(request)).loop
        loop.ready(request.schedule)
        self._begin(loop, request)
        return loop._replays[mode]

    def run(self, request: Request) -> Result:
        """Keeps the latents."""
        result = super().run(request)
        self.latents = result.latents
        return result


def open_watched(plan: Plan, bundle: Bundle, *, graphs: bool, two_streams: bool = False) -> WatchedSession:
    """A session over an opened bundle, whose checksums are not read again."""
    return WatchedSession(bundle, SessionOptions(threads=plan.threads, graphs=graphs, two_streams=two_streams))
