"""How much a search measures, and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass

from hsexport.measure.tune.counting import Counted, Rejection
from hsexport.measure.tune.goal import Score


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    prompts: int
    """What the finalists get."""
    field: int = 24
    """Candidates in the first round."""
    neighbours: int = 12
    """Candidates that join beside those that do well."""
    finalists: int = 3

    @property
    def few(self) -> int:
        """Prompts of the first round."""
        return min(self.prompts, max(2, round(self.prompts / 8)))

    @property
    def some(self) -> int:
        """Prompts of the second round."""
        return min(self.prompts, max(3, round(self.prompts / 3)))


@dataclass(frozen=True)
class Row:
    """One measured candidate as the search left it."""

    counted: Counted
    score: Score
    rejection: Rejection | None


@dataclass(frozen=True)
class Found:
    """What a search came to: rows best first, the finalists that keep the constraint in front."""

    rows: list[Row]
    finalists: int
    rejected: list[Rejection]
    """What was never measured, or only measured to be dropped."""
