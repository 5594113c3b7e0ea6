"""Measures candidates against the reference's pictures, each round beside large alone, and keeps what was measured."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hsengines.files import replace_file
from hsexport.measure.metrics import Metric
from hsexport.measure.pictures import pixels_of, png_of
from hsexport.measure.prompts import Prompt
from hsexport.measure.tune.counting import Counted
from hsexport.measure.tune.goal import Score
from hsexport.measure.tune.ledger import Conditions, Ledger, Measurement
from hsexport.progress import Reporter
from hsruntime.loop.region import active_count
from hsruntime.options import PictureOptions, SessionOptions
from hsruntime.schedule.schedule import Schedule
from hsruntime.session import Result, Session


@dataclass(frozen=True)
class Setup:
    """What all measurements of a search share."""

    session: Session
    prompts: tuple[Prompt, ...]
    large: Schedule
    reference: Schedule
    conditions: Conditions
    metric: Metric
    folder: Path
    """Where the reference's pictures are kept."""


class Measurer:
    """Makes measurements that are not in the ledger yet."""

    def __init__(self, setup: Setup, ledger: Ledger, reporter: Reporter) -> None:
        self._setup = setup
        self._ledger = ledger
        self._reporter = reporter
        self.made = 0
        """Measurements that were made rather than found."""

    def measure(self, stage: str, candidates: Sequence[Counted], prompts: int) -> None:
        """Measures candidates on the first `prompts` prompts.

        A round makes one prompt's picture by large alone and by a few candidates, so that what slows the machine slows
        all. The few share the loops that a session keeps bound: nothing is bound anew between rounds.
        """
        blocks = [
            b for b in self._blocks(candidates) if any(self._lacking(b, prompt) for prompt in self._first(prompts))
        ]
        if not blocks:
            return
        self._make_references(prompts)
        self._reporter.stage(stage, len(blocks))
        for block in blocks:
            self._measure_block(block, prompts)

    def score(self, counted: Counted, prompts: int | None = None) -> Score:
        """What is known of a candidate: its leading prompts, at most `prompts`."""
        found = []
        for prompt in self._first(prompts):
            measurement = self._find(counted, prompt)
            if measurement is None:
                break
            found.append(measurement)
        return Score.of(self._setup.metric, found)

    def _make_references(self, prompts: int) -> None:
        """The reference's pictures that are not kept yet, in one go: they want a loop of their own."""
        missing = [prompt for prompt in self._first(prompts) if not self._reference_file(prompt).exists()]
        if not missing:
            return
        name = self._setup.conditions.reference
        self._reporter.stage("reference", 1)
        self._reporter.begin(name)
        self._setup.folder.mkdir(parents=True, exist_ok=True)
        for number, prompt in enumerate(missing, start=1):
            replace_file(self._reference_file(prompt), png_of(self._generate(self._setup.reference, prompt).image))
            self._reporter.advance(name, "picture", number, len(missing))
        self._reporter.end(name, f"for {len(missing)} prompts")

    def _measure_block(self, block: Sequence[Counted], prompts: int) -> None:
        name = block[0].candidate.schedule + (f" and {len(block) - 1} more" if len(block) > 1 else "")
        self._reporter.begin(name)
        for schedule in (self._setup.large, *(c.schedule for c in block)):
            self._setup.session.warm_up(
                PictureOptions(prompt="", schedule=schedule).completed(self._setup.session.manifest)
            )
        for number, prompt in enumerate(self._first(prompts), start=1):
            lacking = self._lacking(block, prompt)
            if lacking:
                self._run_round(lacking, prompt)
            self._reporter.advance(name, "prompt", number, prompts)
        self._reporter.end(name, f"on {prompts} prompts")

    def _run_round(self, lacking: Sequence[Counted], prompt: Prompt) -> None:
        reference = pixels_of(self._reference_file(prompt).read_bytes())
        large_seconds = self._generate(self._setup.large, prompt).loop_seconds
        for counted in lacking:
            result = self._generate(counted.schedule, prompt)
            self._ledger.add(
                Measurement(
                    conditions=self._setup.conditions,
                    schedule=str(counted.schedule),
                    prompt=prompt.text,
                    seed=prompt.seed,
                    seconds=result.loop_seconds,
                    large_seconds=large_seconds,
                    value=float(self._setup.metric.measure(result.image[None], reference[None])[0]),
                )
            )
            self.made += 1

    def _reference_file(self, prompt: Prompt) -> Path:
        """Where the reference's picture of a prompt is kept: a PNG, which loses nothing."""
        conditions = self._setup.conditions
        named = repr((conditions.subject, conditions.reference, prompt.text, prompt.seed))
        return self._setup.folder / f"{hashlib.sha256(named.encode()).hexdigest()[:24]}.png"

    def _generate(self, schedule: Schedule, prompt: Prompt) -> Result:
        return self._setup.session.generate(prompt.text, seed=prompt.seed, schedule=schedule)

    def _first(self, prompts: int | None) -> tuple[Prompt, ...]:
        return self._setup.prompts[:prompts]

    def _lacking(self, block: Sequence[Counted], prompt: Prompt) -> list[Counted]:
        return [c for c in block if self._find(c, prompt) is None]

    def _find(self, counted: Counted, prompt: Prompt) -> Measurement | None:
        return self._ledger.find(self._setup.conditions, str(counted.schedule), prompt.text, prompt.seed)

    def _blocks(self, candidates: Iterable[Counted]) -> list[list[Counted]]:
        """Candidates in groups whose loops, with large's, fit among those that a session keeps."""
        blocks: list[list[Counted]] = []
        bound: set[tuple[int, int]] = set()
        for counted in sorted(candidates, key=lambda c: self._bound_for(c.schedule)):
            shape = self._bound_for(counted.schedule)
            if not blocks or len(bound | {shape}) > SessionOptions().shapes_kept - 1:
                blocks.append([])
                bound = set()
            bound.add(shape)
            blocks[-1].append(counted)
        return blocks

    def _bound_for(self, schedule: Schedule) -> tuple[int, int]:
        """What decides whether two schedules run on the same bound loop: steps and active tokens."""
        manifest = self._setup.session.manifest
        width, height = manifest.facts.sizes.default
        tokens = width * height // manifest.facts.latent.pixels_per_token**2
        return schedule.steps, active_count(schedule.region.ratio, tokens) if schedule.has_region else 0
