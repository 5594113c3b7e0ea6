"""Memory that pictures need on the device that makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hsengines.traits import traits_of
from hsexport.build.request import BuildRequest
from hsexport.networks.network import Network
from hsexport.plan.measured import DEVICE_PROCESS, RUNNER_PROCESS
from hsexport.plan.networks import item_bytes
from hsexport.plan.work import run_dims
from hsruntime.facts import Facts, Size
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


def run_memory(
    request: BuildRequest,
    facts: Facts,
    networks: Mapping[str, Network],
    schedule: Schedule,
    weights: Mapping[str, int],
    size: Size,
    pictures: int,
) -> RunMemory:
    """For `pictures` of `size` at once; `weights` are every engine's bytes by name."""
    shape = LoopShape.of(facts, schedule, size, pictures, guided=facts.defaults.guidance_scale > 1)
    item, traits = item_bytes(request.options.precision), traits_of(request.backend)
    cache, text = cache_bytes(facts, shape, item), facts.text_tokens
    whole, region = (run_dims(shape, shape.rows, text, region=part) for part in (False, True))
    decoded = {"B": pictures, "h": size[1] // facts.latent.vae_scale, "w": size[0] // facts.latent.vae_scale}

    def activations(name: str, dims: Mapping[str, int]) -> int:
        counted = networks[name].activations
        return item * counted(dims, traits.fused_attention) if counted else 0

    return RunMemory(
        size=size,
        pictures=pictures,
        weights_bytes=sum(weights.values()),
        cache_bytes=cache,
        loop_bytes=loop_bytes(facts, shape, item) - cache,
        full_bytes=activations("large", whole),
        region_bytes=activations("large", region) if shape.active else 0,
        small_bytes=activations("small", whole),
        decoder_bytes=activations("vae_decoder", decoded),
        process_bytes=RUNNER_PROCESS if traits.on_cpu else DEVICE_PROCESS,
    )
