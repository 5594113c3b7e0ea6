"""Draws the rounds: warms up, takes up what an earlier run kept, plays and keeps the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hsexport.measure.bench.plan import Plan
from hsexport.measure.bench.rounds import Contestant, Round, contestant, play
from hsexport.measure.bench.scores import DIFFUSERS
from hsexport.measure.bench.work import Work
from hsexport.measure.prompts import Prompt
from hsexport.progress import Reporter
from hsruntime import Session
from hsruntime.bundle.reader import Bundle
from hsruntime.options import SessionOptions


@dataclass(frozen=True)
class Drawing:
    """Who draws what."""

    bundle: Bundle
    plan: Plan
    prompts: Sequence[Prompt]
    threads: int
    diffusers: str | None
    diffusers_every: int
    """Diffusers takes part in every so manieth round."""

    def entrants(self, number: int) -> dict[str, str]:
        """Who takes part in a round: names, and what each of them stands for."""
        entrants = {c.name: str(c.schedule) for c in self.plan.contenders}
        if self.diffusers and number % self.diffusers_every == 0:
            entrants[DIFFUSERS] = self.diffusers
        return entrants


def draw_rounds(drawing: Drawing, work: Work, reporter: Reporter) -> list[Round]:
    """All rounds in the prompts' order, drawn now or taken from `work`."""
    kept = {n: work.find(prompt, drawing.entrants(n)) for n, prompt in enumerate(drawing.prompts)}
    rounds = {n: each for n, each in kept.items() if each}
    missing = [n for n in kept if n not in rounds]
    if missing:
        options = SessionOptions(threads=drawing.threads, shapes_kept=len(drawing.plan.contenders))
        with Session(drawing.bundle, options) as session:
            contestants = _contestants(drawing, session, missing)
            _warm_up(contestants, drawing.prompts[0], reporter)
            for n in _reported(missing, drawing.prompts, reporter):
                entrants = drawing.entrants(n)
                rounds[n] = play({name: contestants[name] for name in entrants}, drawing.prompts[n])
                work.keep(entrants, rounds[n])
    return [rounds[n] for n in sorted(rounds)]


def _contestants(drawing: Drawing, session: Session, missing: Sequence[int]) -> dict[str, Contestant]:
    contestants = {c.name: contestant(session, c) for c in drawing.plan.contenders}
    if drawing.diffusers and any(DIFFUSERS in drawing.entrants(n) for n in missing):
        from hsexport.measure.eager import diffusers_contestant

        contestants[DIFFUSERS] = diffusers_contestant(drawing.diffusers, session.manifest, drawing.threads)
    return contestants


def _warm_up(contestants: Mapping[str, Contestant], prompt: Prompt, reporter: Reporter) -> None:
    """A round that does not count: it binds every shape and touches all memory."""
    reporter.stage("warm up", 1)
    reporter.begin(prompt.text)
    play(contestants, prompt)
    reporter.end(prompt.text)


def _reported(missing: Sequence[int], prompts: Sequence[Prompt], reporter: Reporter) -> Iterator[int]:
    """The numbers in order; the reporter hears of each, and how long the rest will take."""
    kept = len(prompts) - len(missing)
    reporter.stage("draw", len(missing))
    start = time.perf_counter()
    for done, n in enumerate(missing, start=1):
        reporter.begin(prompts[n].text, f"goes on after {kept} prompts of an earlier run" if kept and done == 1 else "")
        yield n
        left = (time.perf_counter() - start) / done * (len(missing) - done)
        reporter.end(prompts[n].text, f"{kept + done} of {len(prompts)}, about {_duration(left)} left")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
