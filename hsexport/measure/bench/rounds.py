"""A round: every schedule draws one prompt from the same noise, in its own order, so that drift hits all alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from hsexport.measure.bench.plan import CONVERGED, LARGE, Contender
from hsexport.measure.metrics import METRICS
from hsexport.measure.prompts import Prompt
from hsexport.measure.turns import counted_speedup
from hsexport.measure.turns import play as play_round
from hsruntime import Session
from hsruntime.text.tokenize import PromptCutWarning

REFERENCES = (LARGE, CONVERGED)


@dataclass(frozen=True)
class Shot:
    """One picture and what it cost."""

    picture: np.ndarray  # (H, W, 3) uint8
    seconds: float
    """From the prompt to the picture."""
    loop_seconds: float
    """The denoising loop alone; of diffusers' pipeline this is not measured, and 0."""
    schedule: str
    """As it ran."""
    predicted: float
    """Speedup over large at the bundle's default steps by counting operations; 0 if not counted."""
    region: np.ndarray | None  # (h, w) bool


Contestant = Callable[[Prompt], Shot]


@dataclass(frozen=True)
class Round:
    """What all contestants made of one prompt; `distances[reference][metric][name]`, none of a reference to itself."""

    prompt: Prompt
    shots: Mapping[str, Shot]
    distances: Mapping[str, Mapping[str, Mapping[str, float]]]
    cut: bool
    """Whether the text encoders saw only the prompt's beginning."""


def contestant(session: Session, contender: Contender) -> Contestant:
    """Draws with one schedule of an open bundle."""

    def draw(prompt: Prompt) -> Shot:
        facts = session.manifest.facts
        result = session.generate(prompt.text, seed=prompt.seed, schedule=contender.schedule)
        return Shot(
            picture=result.image,
            seconds=result.seconds,
            loop_seconds=result.loop_seconds,
            schedule=str(result.schedule),
            predicted=counted_speedup(facts, result.schedule, facts.defaults.steps),
            region=None if result.region is None else result.region[0].reshape(result.grid),
        )

    return draw


def play(contestants: Mapping[str, Contestant], prompt: Prompt) -> Round:
    """One round; the references are among the contestants."""
    calls = {name: partial(draw, prompt) for name, draw in contestants.items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shots = play_round(calls, prompt.seed)
    cut = any(issubclass(w.category, PromptCutWarning) for w in caught)
    return Round(prompt, shots, _distances(shots), cut)


def _distances(shots: Mapping[str, Shot]) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for reference in REFERENCES:
        others = [name for name in shots if name != reference]
        pictures = np.stack([shots[name].picture for name in others])
        against = np.stack([shots[reference].picture] * len(others))
        found[reference] = {
            m.name: dict(zip(others, m.measure(pictures, against).tolist(), strict=True)) for m in METRICS
        }
    return found
