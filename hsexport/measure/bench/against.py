"""Bundles of one pair side by side: the same prompts, noise and schedules, in turns, a process for each bundle.

Memory is counted by process, and runtimes disturb each other inside one: their idle threads wait for work by spinning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from hsengines.cores import usable_cores
from hsexport.measure.bench.bench import BenchRequest
from hsexport.measure.bench.comparable import check_comparable, opened_all
from hsexport.measure.bench.comparison import COMPARISON_VERSION, MEANINGS, Comparison, rows_of
from hsexport.measure.bench.drawing import Drawing
from hsexport.measure.bench.report import BundleFacts, bundle_facts, times_of
from hsexport.measure.bench.rounds import Contender, Contestant, Round, Shot, Work, contestant
from hsexport.measure.blocks import today
from hsexport.measure.machine import hardware, versions
from hsexport.measure.processes import answering, private_bytes, private_peak
from hsexport.measure.prompts import Prompt, prompts_for
from hsexport.measure.turns import CONFIDENCE_PERCENT
from hsexport.progress import Reporter
from hsruntime import Session
from hsruntime.bundle.reader import Bundle
from hsruntime.options import SessionOptions
from hsruntime.schedule.fit import schedule_for


@dataclass(frozen=True)
class Compared:
    """A comparison, and the rounds that its pictures are in, by schedule."""

    report: Comparison
    rounds: dict[str, list[Round]]


def compare(request: BenchRequest, reporter: Reporter) -> Compared:
    """Sets the bundles side by side. Killed anywhere, it goes on after the last whole round.

    Raises CannotCompare for bundles that are not of one pair, or cannot draw the first one's pictures.
    """
    bundles, threads = opened_all([request.bundle, *request.against]), request.threads or usable_cores()
    name, first = next(iter(bundles.items()))
    schedules = [schedule_for(first.manifest.facts, text or None) for text in request.schedules or ("",)]
    contenders = {str(schedule): Contender(str(schedule), schedule) for schedule in schedules}
    check_comparable(bundles, schedules)
    prompts = prompts_for(first.manifest, request.prompt_file, request.prompts)
    machine, facts = hardware(threads), {name: bundle_facts(bundle) for name, bundle in bundles.items()}
    work, rounds = Work(request.work, ["against", str(machine), request.device]), {}
    for text, contender in contenders.items():
        options = SessionOptions(device=request.device, threads=threads)
        apart = Apart(bundles, facts, contender, options, reporter)
        rounds[text] = Drawing(prompts, apart.entrants, [name], apart.opened).rounds(work, reporter)
    report = Comparison(
        schema_version=COMPARISON_VERSION,
        date=today(),
        command="",  # filled in by who knows it
        bundles=facts,
        hardware=machine,
        versions=versions(),
        prompts=len(prompts),
        confidence_percent=CONFIDENCE_PERCENT,
        rows=[row for text, played in rounds.items() for row in rows_of(text, facts, played)],
        notes=list(_notes(request, facts, rounds)),
        columns=MEANINGS,
        times={text: [times_of(r) for r in played] for text, played in rounds.items()},
    )
    return Compared(report, rounds)


@dataclass(frozen=True)
class Apart:
    """Bundles with one schedule, a process for each."""

    bundles: Mapping[str, Bundle]
    facts: Mapping[str, BundleFacts]
    contender: Contender
    options: SessionOptions
    reporter: Reporter

    def entrants(self, number: int) -> dict[str, str]:
        """All bundles take part in every round."""
        del number
        return {name: f"{each.manifest_sha256} {self.contender.name}" for name, each in self.facts.items()}

    @contextmanager
    def opened(self, missing: Sequence[int]) -> Iterator[dict[str, Contestant]]:
        """All of them, asked for the first one's size and guidance."""
        del missing
        first = next(iter(self.facts.values()))
        asked = {"width": first.size[0], "height": first.size[1], "guidance_scale": first.guidance_scale}
        self.reporter.stage("open", len(self.bundles))
        with ExitStack() as stack:
            contestants = {}
            for name, bundle in self.bundles.items():
                self.reporter.begin(name)
                process = answering(name, drawn_alone, bundle, self.contender, self.options, asked)
                contestants[name] = stack.enter_context(process)
                self.reporter.end(name)
            yield contestants


@contextmanager
def drawn_alone(
    bundle: Bundle, contender: Contender, options: SessionOptions, asked: dict[str, Any]
) -> Iterator[Contestant]:
    """Draws with a bundle that has this process to itself; every shot tells of its memory."""
    with Session(bundle, options) as session:
        draw, opened = contestant(session, contender, **asked), private_bytes()
        with private_peak() as peak:

            def draw_and_tell(prompt: Prompt) -> Shot:
                shot = draw(prompt)
                return replace(shot, opened_bytes=opened, peak_bytes=max(peak[0], private_bytes()))

            yield draw_and_tell


def _notes(request: BenchRequest, facts: dict[str, BundleFacts], rounds: dict[str, list[Round]]) -> Iterator[str]:
    if request.device:
        yield f"Drawn on {request.device}, as --device says."
    if cut := sum(r.cut for r in next(iter(rounds.values()))):
        yield f"{cut} prompts are longer than the text encoders read; their ends were not seen."
    first, *others = facts.items()
    for name, each in others:
        for role in ("large", "small"):
            own, firsts = getattr(each, role), getattr(first[1], role)
            if own != firsts:
                yield f"{role} of {name} was built from {own}, that of {first[0]} from {firsts}."
