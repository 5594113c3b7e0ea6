"""The benchmark as a sentence: plan, draw, judge, score."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hsexport.measure.bench.drawing import Drawing, draw_rounds
from hsexport.measure.bench.judge import DEMO_JUDGE, Judge
from hsexport.measure.bench.plan import plan_for
from hsexport.measure.bench.report import LPIPS_NOTE, Report, bundle_facts, new_report
from hsexport.measure.bench.rounds import Round
from hsexport.measure.bench.scores import DIFFUSERS, FEWEST_FOR_FRECHET, Score, opinions_on, score, score_diffusers
from hsexport.measure.bench.work import Work
from hsexport.measure.machine import hardware, usable_cores, versions
from hsexport.measure.prompts import is_demo, prompts_for
from hsexport.progress import Reporter
from hsruntime.bundle.manifest import Manifest
from hsruntime.bundle.reader import open_bundle


@dataclass(frozen=True)
class BenchRequest:
    """What to measure."""

    bundle: Path
    work: Path
    """Where finished rounds are kept."""
    schedules: tuple[str, ...] = ()
    """None: the default choice."""
    prompts: int = 200
    prompt_file: Path | None = None
    judge: Path | None = None
    diffusers: str | None = None
    """The pipeline to set the bundle beside: a directory, a hub id or `demo`."""
    diffusers_every: int = 10
    threads: int = 0


@dataclass(frozen=True)
class Bench:
    """A report and the rounds that its pictures are in."""

    report: Report
    rounds: list[Round]


def bench(request: BenchRequest, reporter: Reporter) -> Bench:
    """Measures the schedules side by side. Killed anywhere, it goes on after the last whole round."""
    opened = open_bundle(request.bundle)
    manifest, threads = opened.manifest, request.threads or usable_cores()
    machine = hardware(threads)
    facts = bundle_facts(opened)
    captions = request.judge / "captions.json" if request.judge else None
    drawing = Drawing(
        bundle=opened,
        plan=plan_for(manifest, request.schedules),
        prompts=prompts_for(manifest, request.prompt_file, request.prompts, captions),
        threads=threads,
        diffusers=request.diffusers,
        diffusers_every=request.diffusers_every,
    )
    with _judge(request, manifest, threads) as judge:
        work = Work(request.work, [facts.manifest_sha256, str(machine)])
        rounds = draw_rounds(drawing, work, reporter)
        scores, diffusers = _scores(drawing, rounds, judge, reporter)
        notes = _notes(drawing, rounds, judge)
    return Bench(new_report(facts, machine, versions(), rounds, scores, diffusers, notes), rounds)


@contextmanager
def _judge(request: BenchRequest, manifest: Manifest, threads: int) -> Iterator[Judge | None]:
    """Opened before anything is drawn, so that a folder without one is told at once."""
    folder = request.judge or (DEMO_JUDGE if is_demo(manifest) and DEMO_JUDGE.is_dir() else None)
    if folder is None:
        yield None
        return
    judge = Judge.open(folder, threads=threads)
    try:
        yield judge
    finally:
        judge.close()


def _scores(
    drawing: Drawing, rounds: list[Round], judge: Judge | None, reporter: Reporter
) -> tuple[list[Score], Score | None]:
    """One row a schedule, and one of diffusers if it was there."""
    names = [c.name for c in drawing.plan.contenders]
    reporter.stage("score", len(names))
    opinions = opinions_on(judge, rounds, [*names, DIFFUSERS] if drawing.diffusers else names) if judge else None
    scores = []
    for contender in drawing.plan.contenders:
        reporter.begin(contender.name)
        scores.append(score(contender, rounds, opinions))
        reporter.end(contender.name)
    if not drawing.diffusers:
        return scores, None
    guidance = drawing.bundle.manifest.facts.defaults.guidance_scale
    return scores, score_diffusers(f"large, 28 Euler steps, guidance {guidance:g}", rounds, opinions)


def _notes(drawing: Drawing, rounds: list[Round], judge: Judge | None) -> list[str]:
    notes = [*drawing.plan.left_out, LPIPS_NOTE]
    cut = sum(r.cut for r in rounds)
    if cut:
        notes.append(f"{cut} prompts are longer than the text encoders read; their ends were not seen.")
    if judge is None:
        notes.append("There is no judge for this bundle: features, fidelity and Frechet distance are left out.")
    elif len(rounds) < FEWEST_FOR_FRECHET:
        notes.append(f"The Frechet distance is left out: it needs {FEWEST_FOR_FRECHET} prompts or more.")
    if judge and not any(r.prompt.text in judge.names for r in rounds):
        notes.append("No prompt is a name that the judge knows: fidelity is left out.")
    if drawing.diffusers and drawing.diffusers_every > 1:
        taking = sum(DIFFUSERS in r.shots for r in rounds)
        notes.append(f"diffusers drew {taking} of the {len(rounds)} prompts: it has no Frechet distance to compare.")
    return notes
