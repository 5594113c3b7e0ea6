"""Memory that pictures need on the device that makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hsengines.traits import traits_of
from hsexport.build.recipe import Recipe
from hsexport.plan.flops import Extent
from hsexport.plan.measured import DEVICE_PROCESS, RUNNER_PROCESS
from hsexport.plan.networks import item_bytes
from hsruntime.facts import Size, Transformer
from hsruntime.loop.buffers import LoopShape, cache_bytes, loop_bytes
from hsruntime.schedule.schedule import Schedule


@dataclass(frozen=True)
class RunMemory:
    """What as many pictures at once of one size take, in bytes.

    Activations are the larger tensors alive at once within a network, counted, not measured: a builder that fuses more
    needs less. Engines run one after the other in shared scratch memory, so only the largest of them adds up.
    """

    size: Size
    pictures: int
    weights_bytes: int
    """Of all engines; 0 where they are streamed, for then they take whatever room is left."""
    cache_bytes: int
    """Keys and values."""
    loop_bytes: int
    """The loop's other tensors."""
    full_bytes: int
    """Activations of large over the whole picture."""
    region_bytes: int
    """Of large over the region; 0 if the schedule has none."""
    small_bytes: int
    decoder_bytes: int
    process_bytes: int

    @property
    def total_bytes(self) -> int:
        """All that is there at the same time."""
        scratch = max(self.full_bytes, self.region_bytes, self.small_bytes, self.decoder_bytes)
        return self.weights_bytes + self.cache_bytes + self.loop_bytes + scratch + self.process_bytes


def run_memory(recipe: Recipe, schedule: Schedule, weights: Mapping[str, int], size: Size, pictures: int) -> RunMemory:
    """For `pictures` of `size` at once; `weights` are every engine's bytes by name."""
    facts, request = recipe.facts, recipe.request
    shape = LoopShape.of(facts, schedule, size, pictures, guided=facts.defaults.guidance_scale > 1)
    item, traits = item_bytes(request.options.precision), traits_of(request.backend)
    text, cache, fused = facts.text_tokens, cache_bytes(facts, shape, item), traits.fused_attention
    whole = Extent(shape.rows, shape.tokens, shape.tokens, text)
    region = Extent(shape.rows, shape.active, shape.tokens, text, shape.text_cached)
    return RunMemory(
        size=size,
        pictures=pictures,
        weights_bytes=sum(weights.values()),
        cache_bytes=cache,
        loop_bytes=loop_bytes(facts, shape, item) - cache,
        full_bytes=transformer_activations(facts.large, whole, item, fused=fused),
        region_bytes=transformer_activations(facts.large, region, item, fused=fused) if shape.active else 0,
        small_bytes=transformer_activations(facts.small, whole, item, fused=fused),
        decoder_bytes=decoder_activations(recipe, size, pictures, item),
        process_bytes=RUNNER_PROCESS if traits.on_cpu else DEVICE_PROCESS,
    )


def transformer_activations(model: Transformer, over: Extent, item_bytes: int, *, fused: bool) -> int:
    """At its widest, in an attention or in the image's feed-forward.

    Attention: the stream, its norm, query, key, value, the query joined and the result, over live tokens; keys and
    values joined, over all; and the scores, where they are written out. Feed-forward: the stream over live tokens, its
    norm and twice the fourfold width over active ones.
    """
    live, keys = over.active + over.live_text, over.tokens + over.text
    attention = (7 * live + 2 * keys) * model.width
    if not fused:
        attention += model.heads * live * keys
    feed_forward = (live + 9 * over.active) * model.width
    return item_bytes * over.rows * max(attention, feed_forward)


def decoder_activations(recipe: Recipe, size: Size, pictures: int, item_bytes: int) -> int:
    """Where the VAE's decoder is widest: three tensors of a block's input width (input, its norm, the convolved)."""
    widths = recipe.pair.vae.block_out_channels[::-1]
    pixels = size[0] * size[1] // recipe.facts.latent.vae_scale**2
    widest = max(widths[max(0, level - 1)] * 4**level for level in range(len(widths)))
    return item_bytes * pictures * pixels * 3 * widest
