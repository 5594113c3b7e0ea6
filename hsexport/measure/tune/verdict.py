"""What a search found, in sentences; what the numbers do not tell apart is said to be so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hsexport.measure.estimates import mean_of
from hsexport.measure.tune.found import Found, Row
from hsexport.measure.tune.goal import (
    AtLeastAsClose,
    AtLeastAsFast,
    Goal,
    Score,
    shown,
    shown_difference,
    tells_apart,
    turned,
)


def sentences(found: Found, goal: Goal, large: str, reference: str) -> list[str]:
    """The winner, then how it compares with the second, with large alone and with the best mixture."""
    winner = found.rows[0]
    score = winner.score
    told = [
        f"{_name(winner)} is {score.speedup:.2f} times as fast as {large}, measured; "
        f"{shown(score.metric, score.value)} to {reference}, mean of {score.prompts} prompts."
    ]
    if isinstance(goal, AtLeastAsClose):
        told += _near_the_limit(score, goal)
    told += _against_others(found.rows[: found.finalists], goal)
    return told


def _against_others(finalists: Sequence[Row], goal: Goal) -> Iterator[str]:
    winner, *others = finalists
    is_control = winner.counted.candidate.is_control
    of_other_sort = next((row for row in others if row.counted.candidate.is_control != is_control), None)
    if others and others[0] is not of_other_sort:
        second = others[0]
        yield f"It is {_lead(winner, second, goal)} the second, {_name(second)}{_margin(winner, second, goal)}."
    if of_other_sort is None:
        sort = "mixture" if is_control else "fewer steps of large alone"
        yield f"No {sort} was found to keep the constraint."
        return
    lead = _lead(winner, of_other_sort, goal)
    against = f"{_name(of_other_sort)}{_margin(winner, of_other_sort, goal)}"
    if is_control:
        yield f"Large in fewer steps is the better deal here: it is {lead} the best mixture, {against}."
    else:
        yield f"It is {lead} large in fewer steps, {against}."


def _lead(winner: Row, other: Row, goal: Goal) -> str:
    if not tells_apart(goal.lead(winner.score, other.score)):
        return "not told apart from"
    return "closer than" if isinstance(goal, AtLeastAsFast) else "faster than"


def _margin(winner: Row, other: Row, goal: Goal) -> str:
    lead, metric = goal.lead(winner.score, other.score), winner.score.metric
    if isinstance(goal, AtLeastAsFast):
        low, value, high = (shown_difference(metric, v) for v in (lead.low, lead.value, lead.high))
        return f" (by {value}, 95 % interval {low} to {high})"
    return f" (by {lead.value:.2f} in speedup, 95 % interval {lead.low:.2f} to {lead.high:.2f})"


def _near_the_limit(score: Score, goal: AtLeastAsClose) -> Iterator[str]:
    within = mean_of(score.values)
    far = within.low if score.metric.higher_is_closer else within.high
    if turned(score.metric, far) > turned(score.metric, goal.limit):
        yield f"The mean's 95 % interval reaches to {shown(score.metric, far)}, beyond the {goal.limit:g} allowed."


def _name(row: Row) -> str:
    return row.counted.candidate.schedule
