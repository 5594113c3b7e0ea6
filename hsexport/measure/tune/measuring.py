"""Measures candidates beside large alone; every measurement is kept the moment it is made: a killed search goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
from filelock import FileLock, Timeout
from msgspec import Struct

from hsengines.errors import HSError
from hsengines.files import replace_file
from hsexport import __version__
from hsexport.measure.pictures import Metric, pixels_of, png_of
from hsexport.measure.prompts import Prompt
from hsexport.measure.tune.candidates import Counted
from hsexport.measure.turns import speedups
from hsexport.progress import Reporter
from hsruntime.bundle.manifest import Manifest, manifest_bytes
from hsruntime.facts import Defaults
from hsruntime.loop.region import active_count
from hsruntime.options import PictureOptions, SessionOptions
from hsruntime.schedule.schedule import Schedule
from hsruntime.session import Result, Session

LEDGER_NAME = "ledger.jsonl"


class Conditions(Struct, frozen=True, forbid_unknown_fields=True):
    """What measurements must share to be comparable."""

    subject: str  # `subject_of` the bundle
    threads: int
    large: str  # what speed 1 is
    reference: str  # what distance 0 is
    metric: str
    device: str = ""  # as asked for


class Measurement(Struct, frozen=True, forbid_unknown_fields=True, tag="measured"):
    """One picture: how far from the reference's, and how long its loop took beside large's in the same round."""

    conditions: Conditions
    schedule: str
    prompt: str
    seed: int
    seconds: float
    large_seconds: float
    value: float  # of the conditions' metric


class FirstDefaults(Struct, frozen=True, forbid_unknown_fields=True, tag="defaults"):
    """What the bundle did by default before it was tuned for the first time."""

    subject: str
    schedule: str
    steps: int


class Ledger:
    """The measurements in a folder; one process at a time."""

    def __init__(self, folder: Path) -> None:
        """Opens or begins it. Raises HSError if another process has it open, or if a line in it is broken."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / LEDGER_NAME
        self._lock = FileLock(folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as err:
            raise HSError(f"another search is at work in {folder}", "wait for it, or name another --work") from err
        self._measured: dict[tuple[Conditions, str, str, int], Measurement] = {}
        self._defaults: dict[str, FirstDefaults] = {}
        try:
            for record in _whole_records(self.path):
                self._remember(record)
            self._stream = self.path.open("ab")
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._lock.release()

    def __len__(self) -> int:
        return len(self._measured)

    def add(self, record: Measurement | FirstDefaults) -> None:
        """Keeps a record; it is on the disk when this returns."""
        self._stream.write(msgspec.json.encode(record) + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._remember(record)

    def find(self, conditions: Conditions, schedule: str, prompt: str, seed: int) -> Measurement | None:
        """The measurement of a picture, if there is one."""
        return self._measured.get((conditions, schedule, prompt, seed))

    def first_defaults(self, manifest: Manifest) -> Defaults:
        """What the bundle did by default before its first search in this folder, which may be this one."""
        subject, now = subject_of(manifest), manifest.facts.defaults
        if subject not in self._defaults:
            self.add(FirstDefaults(subject, now.schedule, now.steps))
        first = self._defaults[subject]
        return msgspec.structs.replace(now, schedule=first.schedule, steps=first.steps)

    def _remember(self, record: Measurement | FirstDefaults) -> None:
        if isinstance(record, FirstDefaults):
            self._defaults.setdefault(record.subject, record)
        else:
            self._measured[record.conditions, record.schedule, record.prompt, record.seed] = record


def subject_of(manifest: Manifest) -> str:
    """A name for what measurements depend on: the manifest without its default schedule and steps."""
    constant = msgspec.structs.replace(manifest.facts.defaults, schedule="", steps=1)
    content = manifest_bytes(manifest.with_defaults(constant))
    return hashlib.sha256(content + __version__.encode()).hexdigest()[:16]


def _whole_records(path: Path) -> list[Measurement | FirstDefaults]:
    """All records; a last line that a killed writer left torn is cut off. Raises HSError for any other broken line."""
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    decoder = msgspec.json.Decoder(Measurement | FirstDefaults)
    records = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            records.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as err:
            raise HSError(f"{path}, line {number} is not a measurement: {err}", "delete that line") from err
    return records


@dataclass(frozen=True)
class Score:
    """What was measured of one schedule, prompt by prompt; the first prompts are the same for all schedules."""

    metric: Metric
    values: np.ndarray  # (prompts,), in the metric's own direction
    speedups: np.ndarray  # (prompts,), over large alone in the same round

    @property
    def prompts(self) -> int:
        """How many it was measured on."""
        return len(self.values)

    @property
    def speedup(self) -> float:
        """Median over the rounds."""
        return float(np.median(self.speedups))

    @property
    def value(self) -> float:
        """Mean over the prompts."""
        return float(self.values.mean())

    @property
    def errors(self) -> np.ndarray:
        """(prompts,) the values turned so that less is closer."""
        return self.metric.turned(self.values)


@dataclass
class Measurer:
    """Makes measurements that are not in the ledger yet."""

    session: Session
    prompts: tuple[Prompt, ...]
    large: Schedule
    reference: Schedule
    conditions: Conditions
    metric: Metric
    folder: Path  # where the reference's pictures are kept
    ledger: Ledger
    reporter: Reporter
    made: int = 0  # measurements that were made rather than found

    def measure(self, stage: str, candidates: Sequence[Counted], prompts: int) -> None:
        """Measures candidates on the first `prompts` prompts.

        A round makes one prompt's picture by large alone and by a few candidates, so that what slows the machine slows
        all. The few share the loops that a session keeps bound: nothing is bound anew between rounds.
        """
        first = self.prompts[:prompts]
        blocks = [b for b in self._blocks(candidates) if any(self._lacking(b, prompt) for prompt in first)]
        if blocks:
            self._make_references(first)
            self.reporter.stage(stage, len(blocks))
        for block in blocks:
            name = block[0].candidate.schedule + (f" and {len(block) - 1} more" if len(block) > 1 else "")
            self.reporter.begin(name)
            for schedule in (self.large, *(c.schedule for c in block)):
                asked = PictureOptions(prompt="", schedule=schedule)
                self.session.warm_up(asked.completed(self.session.manifest))
            for number, prompt in enumerate(first, start=1):
                self._play(self._lacking(block, prompt), prompt)
                self.reporter.advance(name, "prompt", number, prompts)
            self.reporter.end(name, f"on {prompts} prompts")

    def score(self, counted: Counted, prompts: int | None = None) -> Score:
        """What is known of a candidate: its leading prompts, at most `prompts`."""
        found = (self._find(counted, prompt) for prompt in self.prompts[:prompts])
        known = [(m.large_seconds, m.seconds, m.value) for m in takewhile(bool, found) if m]
        large, own, values = np.array(known).reshape(-1, 3).T
        return Score(self.metric, values, speedups(large, own))

    def _make_references(self, prompts: Sequence[Prompt]) -> None:
        """The reference's pictures that are not kept yet, in one go: they want a loop of their own."""
        missing = [prompt for prompt in prompts if not self._reference_file(prompt).exists()]
        if not missing:
            return
        name = self.conditions.reference
        self.reporter.stage("reference", 1)
        self.reporter.begin(name)
        for number, prompt in enumerate(missing, start=1):
            replace_file(self._reference_file(prompt), png_of(self._generate(self.reference, prompt).image))
            self.reporter.advance(name, "picture", number, len(missing))
        self.reporter.end(name, f"for {len(missing)} prompts")

    def large_seconds(self, pictures: int) -> float:
        """What large's loop takes, the median of so many pictures after one to warm up."""
        times = [self._generate(self.large, self.prompts[0]).loop_seconds for _ in range(pictures + 1)]
        return float(np.median(times[1:]))

    def _play(self, lacking: Sequence[Counted], prompt: Prompt) -> None:
        """One round; each measurement is kept the moment it is made."""
        if not lacking:
            return
        reference = pixels_of(self._reference_file(prompt).read_bytes())
        large_seconds = self._generate(self.large, prompt).loop_seconds
        for counted in lacking:
            result = self._generate(counted.schedule, prompt)
            value = float(self.metric.measure(result.image[None], reference[None])[0])
            made_from = self.conditions, str(counted.schedule), prompt.text, prompt.seed
            self.ledger.add(Measurement(*made_from, result.loop_seconds, large_seconds, value))
            self.made += 1

    def _reference_file(self, prompt: Prompt) -> Path:
        """Where the reference's picture of a prompt is kept: a PNG, which loses nothing."""
        named = repr((self.conditions.subject, self.conditions.reference, prompt.text, prompt.seed))
        return self.folder / f"{hashlib.sha256(named.encode()).hexdigest()[:24]}.png"

    def _generate(self, schedule: Schedule, prompt: Prompt) -> Result:
        return self.session.generate(prompt.text, seed=prompt.seed, schedule=schedule)

    def _lacking(self, block: Sequence[Counted], prompt: Prompt) -> list[Counted]:
        return [c for c in block if self._find(c, prompt) is None]

    def _find(self, counted: Counted, prompt: Prompt) -> Measurement | None:
        return self.ledger.find(self.conditions, str(counted.schedule), prompt.text, prompt.seed)

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
        facts = self.session.manifest.facts
        width, height = facts.sizes.default
        tokens = width * height // facts.latent.pixels_per_token**2
        return schedule.steps, active_count(schedule.region.ratio, tokens) if schedule.has_region else 0
