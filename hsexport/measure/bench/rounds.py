"""Rounds: who draws, each prompt from the same noise; done rounds are kept, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

import hsengines
import hsruntime
from hsengines.errors import HSError
from hsengines.files import replaced
from hsexport.measure import turns
from hsexport.measure.pictures import METRICS, pixels_of, png_of
from hsexport.measure.prompts import Prompt
from hsruntime import Session
from hsruntime.facts import Facts
from hsruntime.schedule.fit import schedule_for
from hsruntime.schedule.presets import PRESETS, hybridstitch
from hsruntime.schedule.schedule import Schedule, ScheduleError, Segment, Signal
from hsruntime.text.tokenize import PromptCutWarning

Kind = Literal["large", "solver", "small", "mixture", "random", "center"]
"""How plots mark a schedule: large alone (`solver`: with another solver, grid or guidance), small alone, both models or
a region of one, and a region chosen by chance or in the middle."""

LARGE, CONVERGED = "large", "large:100"
"""The references: large alone at the bundle's default steps, and where more steps change next to nothing."""
FEWER_STEPS = (8, 10, 12, 14, 16, 20, 24)
CONTROLS: tuple[Signal, ...] = ("random", "center")


@dataclass(frozen=True)
class Contender:
    """A schedule under the name that reports give it."""

    name: str
    schedule: Schedule

    @property
    def kind(self) -> Kind:
        """What the schedule is, from what it runs."""
        modes = {segment.mode for segment in self.schedule.segments}
        if modes == {"large"}:
            plain = Schedule(self.schedule.steps, [Segment(self.schedule.steps, large="full")])
            return "large" if self.schedule == plain else "solver"
        if modes == {"small"}:
            return "small"
        if self.schedule.has_region and self.schedule.region.signal in CONTROLS:
            return "random" if self.schedule.region.signal == "random" else "center"
        return "mixture"


def contenders_for(facts: Facts, wanted: Sequence[str]) -> tuple[list[Contender], list[str]]:
    """The references, then the schedules `wanted`, or the default choice if there are none; and what it leaves out.

    Raises ScheduleError.
    """
    found = {name: schedule_for(facts, name) for name in (LARGE, CONVERGED, *wanted)}
    left_out: list[str] = []
    if not wanted:
        found |= {f"large:{n}": schedule_for(facts, f"large:{n}") for n in FEWER_STEPS}
        for preset in PRESETS:
            try:
                found[preset] = schedule_for(facts, preset)
            except ScheduleError as err:
                left_out.append(f"{preset} is left out: {err.message}")
        found |= _controls(facts)
    return _without_twins(found), left_out


def _controls(facts: Facts) -> dict[str, Schedule]:
    """The default schedule if it has a region, else HybridStitch's, with regions that look at nothing."""
    defaults, default = facts.defaults, schedule_for(facts)
    name = defaults.schedule if defaults.schedule in PRESETS else "default"
    if not default.has_region:
        if facts.small is None:
            return {}
        name, default = "hybridstitch", hybridstitch(max(defaults.steps, 3))
    policy, replace = default.region, msgspec.structs.replace
    return {f"{name}, {s} region": replace(default, region=replace(policy, signal=s)) for s in CONTROLS}


def _without_twins(found: dict[str, Schedule]) -> list[Contender]:
    """One contender per schedule, under its first name; both references stay, even where they are one schedule."""
    kept: list[Contender] = []
    for name, schedule in found.items():
        if name in (LARGE, CONVERGED) or all(str(schedule) != str(c.schedule) for c in kept):
            kept.append(Contender(name, schedule))
    return kept


VERSION = 4  # of the files that rounds are kept in


@dataclass(frozen=True)
class Shot:
    """One picture and what it cost."""

    picture: np.ndarray  # (H, W, 3) uint8
    region: np.ndarray | None  # (h, w) bool
    seconds: float  # from the prompt to the picture
    loop_seconds: float  # the denoising loop alone; of diffusers' pipeline this is not measured, and 0
    schedule: str  # as it ran
    predicted: float  # speedup over large at the bundle's default steps by counting operations; 0 if not counted
    # Private bytes of the bundle's process, once it was open and at its peak since; 0 where others draw in it, too.
    opened_bytes: int = 0
    peak_bytes: int = 0


NUMBERS = [field.name for field in fields(Shot) if field.name not in ("picture", "region")]
Contestant = Callable[[Prompt], Shot]


@dataclass(frozen=True)
class Round:
    """What all contestants made of one prompt; `distances[reference][metric][name]`, none of a reference to itself."""

    prompt: Prompt
    shots: Mapping[str, Shot]
    distances: Mapping[str, Mapping[str, Mapping[str, float]]]
    cut: bool  # whether the text encoders saw only the prompt's beginning


def contestant(session: Session, contender: Contender, **asked: Any) -> Contestant:
    """Draws with one schedule of an open bundle; asked: what else than its defaults `Session.generate` is given."""
    facts = session.manifest.facts

    def draw(prompt: Prompt) -> Shot:
        result = session.generate(prompt.text, seed=prompt.seed, schedule=contender.schedule, **asked)
        region = None if result.region is None else result.region[0].reshape(result.grid)
        promised = turns.counted_speedup(facts, result.schedule, facts.defaults.steps)
        return Shot(result.image, region, result.seconds, result.loop_seconds, str(result.schedule), promised)

    return draw


def play(contestants: Mapping[str, Contestant], prompt: Prompt, references: Sequence[str]) -> Round:
    """One round, in an order of its own; the references are among the contestants."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shots = turns.play({name: partial(draw, prompt) for name, draw in contestants.items()}, prompt.seed)
    cut = any(issubclass(w.category, PromptCutWarning) for w in caught)
    return Round(prompt, shots, {name: _distances(shots, name) for name in references}, cut)


def _distances(shots: Mapping[str, Shot], reference: str) -> dict[str, dict[str, float]]:
    others = [name for name in shots if name != reference]
    pictures = np.stack([shots[name].picture for name in others])
    against = np.stack([shots[reference].picture] * len(others))
    return {m.name: dict(zip(others, m.measure(pictures, against).tolist(), strict=True)) for m in METRICS}


class Work:
    """A folder of rounds. Whole rounds only: times are compared within one, never across runs."""

    def __init__(self, folder: Path, facts: Sequence[str]) -> None:
        """`facts`: everything that decides a round besides its prompt and who draws it."""
        self._folder = folder
        self._facts = [str(VERSION), _code_digest(), *(m.name for m in METRICS), *facts]

    def find(self, prompt: Prompt, entrants: Mapping[str, str]) -> Round | None:
        """The round as it was kept. Raises HSError for a file that is not whole."""
        file = self._file(prompt, entrants)
        if not file.exists():
            return None
        try:
            with zipfile.ZipFile(file) as archive:
                return _round_from(archive, prompt)
        except (zipfile.BadZipFile, ValueError, TypeError, KeyError, OSError) as err:
            raise HSError(f"{file} is damaged: {err}", "delete it, and the round is drawn again") from err

    def keep(self, entrants: Mapping[str, str], played: Round) -> None:
        """Writes a round; a kill leaves it whole or not there."""
        with replaced(self._file(played.prompt, entrants)) as part, zipfile.ZipFile(part, "w") as archive:
            shots = {}
            for number, (name, shot) in enumerate(played.shots.items()):
                archive.writestr(f"{number}.png", png_of(shot.picture, compress_level=1))
                if shot.region is not None:
                    archive.writestr(f"{number}-region.png", png_of(shot.region.astype(np.uint8) * 255))
                shots[name] = [getattr(shot, field) for field in NUMBERS]
            archive.writestr("round.json", json.dumps([shots, played.distances, played.cut]))

    def _file(self, prompt: Prompt, entrants: Mapping[str, str]) -> Path:
        key = json.dumps([self._facts, list(entrants.items()), prompt.seed, prompt.text])
        return self._folder / f"{prompt.seed:05d}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.zip"


def _round_from(archive: zipfile.ZipFile, prompt: Prompt) -> Round:
    records, distances, cut = json.loads(archive.read("round.json"))
    shots, files = {}, archive.namelist()
    for number, (name, record) in enumerate(records.items()):
        mask = f"{number}-region.png"
        region = pixels_of(archive.read(mask)) > 0 if mask in files else None
        shots[name] = Shot(pixels_of(archive.read(f"{number}.png")), region, **dict(zip(NUMBERS, record, strict=True)))
    return Round(prompt, shots, distances, cut)


def _code_digest() -> str:
    """sha256 over the source of what draws and times: rounds of an older one are not taken up."""
    digest = hashlib.sha256()
    for package in (hsengines, hsruntime):
        for file in sorted(Path(next(iter(package.__path__))).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
