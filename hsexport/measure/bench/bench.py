"""The benchmark as a sentence: choose, draw, judge, score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from hsengines.cores import usable_cores
from hsexport.measure.bench.drawing import Drawing
from hsexport.measure.bench.judge import DEMO_JUDGE, Judge
from hsexport.measure.bench.report import MEANINGS, SCHEMA_VERSION, Report, bundle_facts, times_of
from hsexport.measure.bench.rounds import (
    CONVERGED,
    LARGE,
    Contender,
    Contestant,
    Round,
    Work,
    contenders_for,
    contestant,
)
from hsexport.measure.bench.scores import DIFFUSERS, FEWEST_FOR_FRECHET, NAMES, Opinions, score, taking_part
from hsexport.measure.blocks import today
from hsexport.measure.machine import hardware, versions
from hsexport.measure.prompts import is_demo, prompts_for
from hsexport.measure.turns import CONFIDENCE_PERCENT
from hsexport.progress import Reporter
from hsruntime import Session
from hsruntime.bundle.reader import Bundle, open_bundle
from hsruntime.options import SessionOptions

LPIPS_NOTE = (
    "LPIPS is left out, ST-LPIPS stands in for it: its weights are not part of this package; "
    "scripts/export_perceptual takes them from torchvision's."
)


@dataclass(frozen=True)
class BenchRequest:
    """What to measure."""

    bundle: Path
    work: Path  # where finished rounds are kept
    schedules: tuple[str, ...] = ()  # empty: the default choice
    prompts: int = 200
    prompt_file: Path | None = None
    judge: Path | None = None
    diffusers: str | None = None  # the pipeline to set the bundle beside: a directory, a hub id or `demo`
    diffusers_every: int = 10
    device: str = ""
    threads: int = 0
    against: tuple[Path, ...] = ()  # other bundles of the pair, for `against.compare`


@dataclass(frozen=True)
class Bench:
    """A report and the rounds that its pictures are in."""

    report: Report
    rounds: list[Round]


def bench(request: BenchRequest, reporter: Reporter) -> Bench:
    """Measures the schedules side by side. Killed anywhere, it goes on after the last whole round."""
    bundle, threads = open_bundle(request.bundle), request.threads or usable_cores()
    machine, facts, defaults = hardware(threads), bundle_facts(bundle), bundle.manifest.facts.defaults
    contenders, left_out = contenders_for(bundle.manifest.facts, request.schedules)
    captions = request.judge / "captions.json" if request.judge else None
    prompts = prompts_for(bundle.manifest, request.prompt_file, request.prompts, captions)
    demo_judge = DEMO_JUDGE if is_demo(bundle.manifest) and DEMO_JUDGE.is_dir() else None
    folder = request.judge or demo_judge
    # The judge is opened before anything is drawn, so that a folder without one is told at once.
    with closing(Judge.open(folder, threads=threads)) if folder else nullcontext() as judge:
        schedules = Schedules(bundle, contenders, threads, request)
        drawing = Drawing(prompts, schedules.entrants, (LARGE, CONVERGED), schedules.opened)
        rounds = drawing.rounds(Work(request.work, [facts.manifest_sha256, str(machine), request.device]), reporter)
        rows: list[tuple[str, str, str]] = [(c.name, str(c.schedule), c.kind) for c in contenders]
        if request.diffusers:
            rows.append((DIFFUSERS, f"large, 28 Euler steps, guidance {defaults.guidance_scale:g}", DIFFUSERS))
        reporter.stage("score", len(rows))
        opinions = Opinions(judge, rounds, [name for name, *_ in rows]) if judge else None
        scores = []
        for row in rows:
            reporter.begin(row[0])
            scores.append(score(*row, rounds, opinions))
            reporter.end(row[0])
        notes = [*left_out, *_notes(request, rounds, judge)]
    report = Report(
        schema_version=SCHEMA_VERSION,
        date=today(),
        command="",  # filled in by who knows it
        bundle=facts,
        hardware=machine,
        versions=versions(),
        prompts=len(rounds),
        confidence_percent=CONFIDENCE_PERCENT,
        scores=scores[: len(contenders)],
        diffusers=scores[-1] if request.diffusers else None,
        judged=any(s.quality.top_1 or s.quality.frechet for s in scores),
        notes=notes,
        columns=MEANINGS,
        times=[times_of(r) for r in rounds],
    )
    return Bench(report, rounds)


@dataclass(frozen=True)
class Schedules:
    """One bundle's schedules and, now and then, diffusers' pipeline, all in this process."""

    bundle: Bundle
    contenders: Sequence[Contender]
    threads: int
    request: BenchRequest

    def entrants(self, number: int) -> dict[str, str]:
        """Who takes part in a round: names, and what each of them stands for."""
        entrants = {c.name: str(c.schedule) for c in self.contenders}
        if self.request.diffusers and number % self.request.diffusers_every == 0:
            entrants[DIFFUSERS] = self.request.diffusers
        return entrants

    @contextmanager
    def opened(self, missing: Sequence[int]) -> Iterator[dict[str, Contestant]]:
        """All who draw the rounds of these numbers."""
        options = SessionOptions(device=self.request.device, threads=self.threads, shapes_kept=len(self.contenders))
        with Session(self.bundle, options) as session:
            contestants = {c.name: contestant(session, c) for c in self.contenders}
            if self.request.diffusers and any(DIFFUSERS in self.entrants(n) for n in missing):
                from hsexport.measure.speed import diffusers_contestant

                facts = session.manifest.facts
                contestants[DIFFUSERS] = diffusers_contestant(self.request.diffusers, facts, self.threads)
            yield contestants


def _notes(request: BenchRequest, rounds: list[Round], judge: Judge | None) -> Iterator[str]:
    if "lpips" not in NAMES:
        yield LPIPS_NOTE
    if request.device:
        yield f"Drawn on {request.device}, as --device says."
    if cut := sum(r.cut for r in rounds):
        yield f"{cut} prompts are longer than the text encoders read; their ends were not seen."
    if judge is None:
        yield "There is no judge for this bundle: features, fidelity and Frechet distance are left out."
    elif len(rounds) < FEWEST_FOR_FRECHET:
        yield f"The Frechet distance is left out: it needs {FEWEST_FOR_FRECHET} prompts or more."
    if judge and not any(r.prompt.text in judge.names for r in rounds):
        yield "No prompt is a name that the judge knows: fidelity is left out."
    if request.diffusers and request.diffusers_every > 1:
        taking = len(taking_part(rounds, DIFFUSERS))
        yield f"diffusers drew {taking} of the {len(rounds)} prompts: it has no Frechet distance to compare."
