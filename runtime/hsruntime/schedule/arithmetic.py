"""What a step costs by counting, and the speedup a schedule ought to have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from hsruntime.facts import Facts, Transformer, counted
from hsruntime.loop.program import reads
from hsruntime.loop.region import active_count
from hsruntime.schedule.schedule import Schedule


def step_flops(model: Transformer, active: int, tokens: int, text: int, *, text_cached: bool = False) -> int:
    """Floating-point operations of one row's step over `active` of `tokens` image tokens and `text` text tokens.

    Matrix products of the layers only. A cached text costs its keys and nothing else.
    """
    return counted(model.operations["layers"], G=1, M=active, N=tokens, T=text, L=0 if text_cached else text)


Kind = Literal["large", "region", "small", "light"]
"""What runs: large over the whole picture, large over its region, small, large's outer blocks."""


def runs(schedule: Schedule, *, guided: bool = True) -> Iterator[tuple[Kind, int, int]]:
    """Every transformer's runs in a picture, in order, the gap signal's extra ones of small included.

    What runs, over how many rows of one picture (2 under guidance), how often in a row.
    """
    rows, segments = 2 if guided else 1, list(schedule.unrolled())
    for before, segment in zip([None, *segments], segments, strict=False):
        chooses = before is not None and before.large == "full" and segment.large == "region"
        if chooses and reads(schedule.region.signal, "other"):
            yield "light" if segment.light else "small", rows, 1
        live = rows if segment.guidance == "full" else 1
        if segment.large:
            yield "large" if segment.large == "full" else "region", live, segment.steps
        if segment.small:
            yield "small", live, segment.steps
        if segment.light:
            yield "light", live, segment.steps


def schedule_flops(schedule: Schedule, facts: Facts, tokens: int, *, guided: bool = True) -> int:
    """Transformer operations of a whole schedule and picture, the gap signal's extra small steps included."""
    text, active = facts.text_tokens, active_count(schedule.region.ratio, tokens)
    costs = {
        "large": step_flops(facts.large, tokens, tokens, text),
        "region": step_flops(facts.large, active, tokens, text, text_cached=schedule.region.text == "cached"),
    }
    for kind, model in (("small", facts.small), ("light", facts.light)):
        if model:
            costs[kind] = step_flops(model, tokens, tokens, facts.text[model.text].tokens)
    return sum(times * rows * costs[kind] for kind, rows, times in runs(schedule, guided=guided))


def predicted_speedup(
    schedule: Schedule, facts: Facts, tokens: int | None = None, *, guided: bool | None = None
) -> float:
    """Cost of large alone over as many steps, divided by the schedule's; at the pair's default size and guidance."""
    if guided is None:
        guided = facts.defaults.guidance_scale > 1
    if tokens is None:
        width, height = facts.sizes.default
        tokens = width * height // facts.latent.pixels_per_token**2
    reference = schedule.steps * (2 if guided else 1) * step_flops(facts.large, tokens, tokens, facts.text_tokens)
    return reference / schedule_flops(schedule, facts, tokens, guided=guided)
