"""When a region is chosen, and from what: the schedule's region policy at work on one call's pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hsruntime.loop.loop import SCORED, Loop
from hsruntime.loop.region import Region, center_scores, random_scores, region_from_scores
from hsruntime.schedule.schedule import Schedule, Segment


class Chooser:
    """Chooses the region before the first region step after a whole one, and anew where the policy says so."""

    def __init__(self, loop: Loop, schedule: Schedule, seeds: Sequence[int]) -> None:
        self.region: Region | None = None
        self._loop = loop
        self._policy = schedule.region
        self._seeds = seeds
        self._draws = 0
        self._whole = True  # whether the last step of large ran on the whole picture
        self._gathered: str | None = None  # the guidance whose rows hold the region's cache
        self._idle = np.zeros((loop.shape.pictures, loop.shape.tokens), np.float32)

    def compares(self, run: Segment, following: Segment) -> bool:
        """Whether the last step of `run` must be told what small would have done."""
        return self._policy.signal == "gap" and run.large == "full" and following.large == "region"

    def before(self, run: Segment) -> None:
        """Chooses if `run` needs a region that is not there; gathers its keys and values."""
        if run.large != "region":
            return
        if not self._whole and self._policy.reselect and self.region:
            self._loop.take_back(self.region)
        if self._whole or self._policy.reselect:
            self.region = self._chosen()
            self._gathered = None
        if self._gathered != run.guidance and self.region:
            self._loop.set_region(self.region, run)
            self._gathered = run.guidance
        self._whole = False

    def after(self, run: Segment, steps: int) -> None:
        """Counts how long each token has been left out."""
        if run.large == "region" and self.region:
            self._idle = np.where(self.region.mask, 0, self._idle + steps)
        else:
            self._idle[:] = 0
        self._whole = self._whole or run.large == "full"

    def _chosen(self) -> Region:
        scores = self._scores()
        if self._policy.starvation:
            scores = scores * np.exp(np.float32(self._policy.starvation) * self._idle)
        return region_from_scores(scores, self._loop.shape.active)

    def _scores(self) -> np.ndarray:
        shape, signal = self._loop.shape, self._policy.signal
        if signal in SCORED:
            return self._loop.scores(signal)
        if signal == "center":
            return center_scores(shape.pictures, shape.grid)
        self._draws += 1
        return random_scores(self._seeds, shape.tokens, self._draws - 1)
