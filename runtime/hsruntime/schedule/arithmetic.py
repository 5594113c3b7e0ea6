"""What a step costs by counting, and the speedup a schedule ought to have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hsruntime.bundle.manifest import Manifest, Transformer
from hsruntime.loop.buffers import text_tokens
from hsruntime.loop.region import active_count
from hsruntime.schedule.schedule import Schedule


def step_flops(model: Transformer, active: int, tokens: int, text: int, *, text_cached: bool = False) -> int:
    """Floating-point operations of one row's step over `active` of `tokens` image tokens and `text` text tokens.

    Matrix products only: per token and layer 12 w^2 multiply-adds (query, key, value, output, two of 4 w^2 in the
    feed-forward), per query and key 2 w; a dual attention adds 4 w^2 and its own queries and keys among image tokens.
    A cached text costs its keys and nothing else.
    """
    w, keys = model.width, tokens + text
    live = 0 if text_cached else text
    linear = 12 * w * w * (active + live) * model.layers - 10 * w * w * live  # the last text half keeps only K and V
    joint = 2 * w * keys * ((active + live) * model.layers - live)
    dual = (4 * w * w * active + 2 * w * active * tokens) * len(model.dual_attention_layers)
    return 2 * (linear + joint + dual)


Kind = Literal["large", "region", "small"]
"""What runs: large over the whole picture, large over its region, small."""


@dataclass(frozen=True)
class Costs:
    """Operations of a step of one row, by what runs in it."""

    large: int
    region: int
    small: int

    @classmethod
    def of(cls, schedule: Schedule, large: Transformer, small: Transformer, tokens: int, text: int) -> Costs:
        """For a picture of `tokens` and a prompt of `text` tokens."""
        active, cached = active_count(schedule.region.ratio, tokens), schedule.region.text == "cached"
        return cls(
            step_flops(large, tokens, tokens, text),
            step_flops(large, active, tokens, text, text_cached=cached),
            step_flops(small, tokens, tokens, text),
        )

    def run(self, kind: Kind) -> int:
        """One run of one row."""
        return {"large": self.large, "region": self.region, "small": self.small}[kind]


@dataclass(frozen=True)
class Pass:
    """A transformer's runs, one after the other."""

    kind: Kind
    rows: int  # of one picture: 2 under guidance
    count: int


def passes(schedule: Schedule, *, guided: bool = True) -> Iterator[Pass]:
    """Every transformer's run in a picture, in order, the gap signal's extra runs of small included."""
    rows, runs = 2 if guided else 1, list(schedule.unrolled())
    for before, segment in zip([None, *runs], runs, strict=False):
        chooses = before is not None and before.large == "full" and segment.large == "region"
        if chooses and schedule.region.signal == "gap":
            yield Pass("small", rows, 1)
        live = rows if segment.guidance == "full" else 1
        if segment.large:
            yield Pass("large" if segment.large == "full" else "region", live, segment.steps)
        if segment.small:
            yield Pass("small", live, segment.steps)


def schedule_flops(
    schedule: Schedule, large: Transformer, small: Transformer, tokens: int, text: int, *, guided: bool = True
) -> int:
    """Transformer operations of a whole schedule and picture, the gap signal's extra small steps included."""
    costs = Costs.of(schedule, large, small, tokens, text)
    return sum(each.count * each.rows * costs.run(each.kind) for each in passes(schedule, guided=guided))


def predicted_speedup(
    schedule: Schedule, large: Transformer, small: Transformer, tokens: int, text: int, *, guided: bool = True
) -> float:
    """Cost of large alone over as many steps, divided by the schedule's."""
    rows = 2 if guided else 1
    reference = schedule.steps * rows * step_flops(large, tokens, tokens, text)
    return reference / schedule_flops(schedule, large, small, tokens, text, guided=guided)


def bundle_speedup(manifest: Manifest, schedule: Schedule) -> float:
    """`predicted_speedup` of a bundle's pair at its default size, guidance and text length."""
    width, height = manifest.sizes.default
    tokens = width * height // manifest.latent.pixels_per_token**2
    guided = manifest.defaults.guidance_scale > 1
    return predicted_speedup(schedule, manifest.large, manifest.small, tokens, text_tokens(manifest), guided=guided)
