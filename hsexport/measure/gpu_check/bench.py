"""Steps as the device takes them: launched one behind the other, so that it never waits for the host."""

from __future__ import annotations

from time import perf_counter

from hsexport.measure.gpu_check.watched import WatchedSession
from hsruntime.request import Request

MODES = ("large", "hybrid", "small")


class Bench:
    """Launches the replays of a session's own loop, bound and captured for `request`, which has every mode."""

    def __init__(self, session: WatchedSession, request: Request, steps: int) -> None:
        self._session = session
        self._request = request
        self._steps = steps

    def milliseconds(self) -> dict[str, float]:
        """Of one step by mode; the region is as the session's last picture left it."""
        return {mode: self._milliseconds(mode) for mode in MODES}

    def _milliseconds(self, mode: str) -> float:
        step = self._session.replay_from_noise(self._request, mode)
        step.launch()
        self._session.device.synchronize()
        start = perf_counter()
        for _ in range(self._steps):
            step.launch()
        self._session.device.synchronize()
        return 1000 * (perf_counter() - start) / self._steps
