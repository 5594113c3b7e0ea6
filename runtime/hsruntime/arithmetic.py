"""What a step costs by counting, and the speedup a schedule ought to have."""

from __future__ import annotations

from hsruntime.buffers import text_tokens
from hsruntime.manifest import Manifest, Transformer
from hsruntime.region import active_count
from hsruntime.schedule import Schedule


def step_flops(model: Transformer, active: int, tokens: int, text: int) -> int:
    """Floating-point operations of one row's step over `active` of `tokens` image tokens and `text` text tokens.

    Matrix products only: per token and layer 12 w^2 multiply-adds (query, key, value, output, two of 4 w^2 in the
    feed-forward), per query and key 2 w; a dual attention adds 4 w^2 and its own queries and keys among image tokens.
    """
    w, keys = model.width, tokens + text
    linear = 12 * w * w * (active + text) * model.layers - 10 * w * w * text  # the last text half keeps only K and V
    joint = 2 * w * keys * ((active + text) * model.layers - text)
    dual = (4 * w * w * active + 2 * w * active * tokens) * len(model.dual_attention_layers)
    return 2 * (linear + joint + dual)


def schedule_flops(schedule: Schedule, large: Transformer, small: Transformer, tokens: int, text: int) -> int:
    """Transformer operations of a whole schedule, one guidance row, the gap signal's extra small steps included."""
    active = active_count(schedule.region.ratio, tokens)
    cost = {
        "large": step_flops(large, tokens, tokens, text),
        "small": step_flops(small, tokens, tokens, text),
        "region": step_flops(large, active, tokens, text),
    }
    total, runs = 0, list(schedule.unrolled())
    for before, segment in zip([None, *runs], runs, strict=False):
        per_step = {"large": cost["large"], "small": cost["small"], "hybrid": cost["region"] + cost["small"]}
        total += segment.steps * per_step[segment.mode]
        if before is not None and segment.large == "region" and schedule.region.signal == "gap":
            total += cost["small"]
    return total


def predicted_speedup(schedule: Schedule, large: Transformer, small: Transformer, tokens: int, text: int) -> float:
    """Cost of large alone over as many steps, divided by the schedule's."""
    reference = schedule.steps * step_flops(large, tokens, tokens, text)
    return reference / schedule_flops(schedule, large, small, tokens, text)


def bundle_speedup(manifest: Manifest, schedule: Schedule) -> float:
    """`predicted_speedup` of a bundle's pair at its default size and text length."""
    width, height = manifest.sizes.default
    tokens = width * height // manifest.latent.pixels_per_token**2
    return predicted_speedup(schedule, manifest.large, manifest.small, tokens, text_tokens(manifest))
