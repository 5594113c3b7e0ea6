"""Drawing what is missing of the rounds, whoever draws."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from hsexport.measure.bench.rounds import Contestant, Round, Work, play
from hsexport.measure.prompts import Prompt
from hsexport.progress import Reporter


@dataclass(frozen=True)
class Drawing:
    """Who draws what."""

    prompts: Sequence[Prompt]
    entrants: Callable[[int], Mapping[str, str]]
    """Who takes part in the round of a prompt's number: names, and what each of them stands for."""
    references: Sequence[str]
    """Those whose pictures the others' are held to; they take part in every round."""
    opened: Callable[[Sequence[int]], AbstractContextManager[Mapping[str, Contestant]]]
    """All who take part in rounds of these numbers; only called where there is something to draw."""

    def rounds(self, work: Work, reporter: Reporter) -> list[Round]:
        """All rounds in the prompts' order, drawn now or taken from `work`."""
        kept = {n: work.find(prompt, self.entrants(n)) for n, prompt in enumerate(self.prompts)}
        rounds = {n: each for n, each in kept.items() if each}
        missing = [n for n in kept if n not in rounds]
        if missing:
            with self.opened(missing) as contestants:
                reporter.stage("warm up", 1)
                reporter.begin(self.prompts[0].text)
                # Does not count: it binds every shape and touches all memory.
                play(contestants, self.prompts[0], self.references)
                reporter.end(self.prompts[0].text)
                for n in self._told(missing, reporter):
                    entrants = self.entrants(n)
                    taking = {name: contestants[name] for name in entrants}
                    rounds[n] = play(taking, self.prompts[n], self.references)
                    work.keep(entrants, rounds[n])
        return [rounds[n] for n in sorted(rounds)]

    def _told(self, missing: Sequence[int], reporter: Reporter) -> Iterator[int]:
        """The numbers in order; the reporter hears of each, and how long the rest will take."""
        kept, start = len(self.prompts) - len(missing), time.perf_counter()
        reporter.stage("draw", len(missing))
        for done, n in enumerate(missing, start=1):
            text = self.prompts[n].text
            reporter.begin(text, f"goes on after {kept} prompts of an earlier run" if kept and done == 1 else "")
            yield n
            left = (time.perf_counter() - start) / done * (len(missing) - done)
            duration = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min"
            reporter.end(text, f"{kept + done} of {len(self.prompts)}, about {duration} left")
