"""What pictures take: operations of a step and in all, the time that a GPU's peaks allow them, and memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hsengines.spec import EngineSpec
from hsengines.traits import traits_of
from hsengines.weights import FORMATS, UNQUANTIZED, asked_weights
from hsexport.build.request import BuildRequest
from hsexport.networks.network import Network
from hsexport.plan.gpus import Gpu
from hsexport.plan.measured import DEVICE_PROCESS, RUNNER_PROCESS
from hsexport.plan.networks import ResidentWeight, item_bytes
from hsruntime.facts import Facts, Size, Transformer, counted
from hsruntime.loop.buffers import LoopShape, cache_bytes, loop_bytes
from hsruntime.schedule.arithmetic import Kind, predicted_speedup, runs
from hsruntime.schedule.schedule import Schedule


def run_dims(shape: LoopShape, rows: int, text: int, *, region: bool = False) -> dict[str, int]:
    """Extents of a transformer's run over a whole picture or over its region, by the names that operations have.

    Rows G, active M of N tokens, T text tokens, of which L go through the network.
    """
    live = 0 if region and shape.text_cached else text
    return {"G": rows, "M": shape.active if region else shape.tokens, "N": shape.tokens, "T": text, "L": live}


def pass_flops(model: Transformer, dims: Mapping[str, int]) -> dict[str, int]:
    """Of one run, all rows together, by part of the network: what a counter finds in its graph, to the last one."""
    return {part: counted(terms, **dims) for part, terms in model.operations.items()}


@dataclass(frozen=True)
class Run:
    """One run of one network in a picture: its operations, and the bytes that it cannot but move."""

    name: str
    count: int
    flops: int
    moved_bytes: int
    """Resident weights read, keys and values read or written: activations come on top where they leave the chip."""
    narrow_flops: int = 0
    """Of the operations, those of products whose two sides are in 8 bits."""


@dataclass(frozen=True)
class Step:
    """One run of a transformer with all rows of a picture, by where its operations happen."""

    flops: Mapping[str, int]  # by part, and "total"
    run: Run


@dataclass(frozen=True)
class Work:
    """One picture of the default size: a whole step of large, of its region and of small, and everything in order."""

    large: Step
    region: Step | None
    small: Step | None
    light: Step | None
    text_flops: int
    decode_flops: int
    runs: tuple[Run, ...]
    reference: tuple[Run, ...]
    """Large alone in as many steps."""
    speedup: float
    """Over large alone, transformers only, by hsruntime.schedule.arithmetic."""

    @property
    def flops(self) -> int:
        """Of the whole picture."""
        return sum(run.count * run.flops for run in self.runs)

    @property
    def reference_flops(self) -> int:
        """Of large alone."""
        return sum(run.count * run.flops for run in self.reference)


@dataclass(frozen=True)
class RunTime:
    """A run at a GPU's peaks: the longer of computing and moving."""

    seconds: float
    bound: Literal["compute", "memory"]


@dataclass(frozen=True)
class Roofline:
    """The least time that a GPU's published peaks allow: no kernel has reached them."""

    gpu: Gpu
    large: RunTime
    region: RunTime | None
    small: RunTime | None
    light: RunTime | None
    picture_seconds: float
    reference_seconds: float


def work_of(
    request: BuildRequest,
    facts: Facts,
    networks: Mapping[str, Network],
    schedule: Schedule,
    weights: Mapping[str, Sequence[ResidentWeight]],
) -> Work:
    """Of one picture of the default size, at the default guidance."""
    shape = LoopShape.of(facts, schedule, facts.sizes.default, 1, guided=facts.defaults.guidance_scale > 1)
    guided, specs = shape.rows == 2, specs_of(request, networks)
    sizes = {name: sum(weight.size_bytes for weight in each) for name, each in weights.items()}
    models: dict[str, Transformer] = {"region": facts.large, **facts.members}
    if facts.light:
        models["light"] = facts.light

    def flops_of(kind: Kind, rows: int) -> dict[str, int]:
        model = models[kind]
        text = facts.text[model.text].tokens
        return pass_flops(model, run_dims(shape, rows, text, region=kind == "region"))

    def narrow_flops(kind: Kind, rows: int) -> int:
        """Attention, whose operations grow with the square of tokens, has no weights to be quantised."""
        network = networks["large" if kind == "region" else kind]
        format = network.weights_in(asked_weights(request.options.weights), (network.kind,))
        if format == UNQUANTIZED or not (FORMATS[format].activations and request.calibration):
            return 0
        terms = {name: count for name, count in models[kind].operations["layers"].items() if name.count("*") < 2}
        text = facts.text[models[kind].text].tokens
        return counted(terms, **run_dims(shape, rows, text, region=kind == "region"))

    def run_of(kind: Kind, rows: int, times: int) -> Run:
        flops, narrow = sum(flops_of(kind, rows).values()), narrow_flops(kind, rows)
        if kind in ("small", "light"):
            return Run(kind, times, flops, sizes[kind], narrow)
        # Keys and values of all tokens once: large writes them all, a region reads the cached and writes its own.
        once = LoopShape(1, rows, shape.grid, 0, shape.steps)
        return Run(kind, times, flops, sizes["large"] + cache_bytes(facts, specs, once), narrow)

    def step_of(kind: Kind) -> Step:
        run = run_of(kind, shape.rows, 1)
        return Step({**flops_of(kind, shape.rows), "total": run.flops}, run)

    def single(name: str, dims: Mapping[str, int]) -> Run:
        counted, shapes = networks[name].operations, {weight.name: weight.shape for weight in weights[name]}
        return Run(name, 1, counted(shapes, dims) if counted else 0, sizes[name])

    height, width = (side * facts.latent.patch_size for side in shape.grid)
    texts = {
        name: [single(slot.engine, {"B": shape.rows}) for slot in side.encoders] for name, side in facts.text.items()
    }
    before = [run for side in texts.values() for run in side]
    conditions = {
        role: single(f"condition_{role}", {"G": shape.rows, "S": schedule.steps, "T": facts.text[model.text].tokens})
        for role, model in facts.members.items()
    }
    after = single("vae_decoder", {"B": 1, "h": height, "w": width})
    return Work(
        large=step_of("large"),
        region=step_of("region") if shape.active else None,
        small=step_of("small") if facts.small else None,
        light=step_of("light") if facts.light else None,
        text_flops=sum(each.flops for each in before),
        decode_flops=after.flops,
        runs=(*before, *conditions.values(), *(run_of(*each) for each in runs(schedule, guided=guided)), after),
        reference=(*texts[facts.large.text], conditions["large"], run_of("large", shape.rows, schedule.steps), after),
        speedup=predicted_speedup(schedule, facts, shape.tokens, guided=guided),
    )


def specs_of(request: BuildRequest, networks: Mapping[str, Network]) -> dict[str, EngineSpec]:
    """The I/O signatures that the bundle's engines will have."""
    precision = request.options.precision
    return {name: network.spec_at(network.precision_in(precision)) for name, network in networks.items()}


def roofline(work: Work, gpu: Gpu) -> Roofline:
    """The picture's runs at the GPU's peaks."""
    return Roofline(
        gpu=gpu,
        large=_time(work.large.run, gpu),
        region=_time(work.region.run, gpu) if work.region else None,
        small=_time(work.small.run, gpu) if work.small else None,
        light=_time(work.light.run, gpu) if work.light else None,
        picture_seconds=_seconds(work.runs, gpu),
        reference_seconds=_seconds(work.reference, gpu),
    )


def _seconds(runs: Iterable[Run], gpu: Gpu) -> float:
    return sum(run.count * _time(run, gpu).seconds for run in runs)


def _time(run: Run, gpu: Gpu) -> RunTime:
    computing = (run.flops - run.narrow_flops) / gpu.flops_per_second + run.narrow_flops / gpu.flops_per_second_8_bit
    moving = run.moved_bytes / gpu.bytes_per_second
    return RunTime(max(computing, moving), "compute" if computing >= moving else "memory")


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
    """Of small or the light form of large, whichever has more."""
    condition_bytes: int
    """Of what follows from prompts and noise levels, while large's is made."""
    decoder_bytes: int
    process_bytes: int

    @property
    def total_bytes(self) -> int:
        """All that is there at the same time."""
        transformers = (self.full_bytes, self.region_bytes, self.small_bytes, self.condition_bytes)
        scratch = max(*transformers, self.decoder_bytes)
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
    specs, text = specs_of(request, networks), facts.text_tokens
    cache = cache_bytes(facts, specs, shape)
    whole, region = (run_dims(shape, shape.rows, text, region=part) for part in (False, True))
    decoded = {"B": pictures, "h": size[1] // facts.latent.vae_scale, "w": size[0] // facts.latent.vae_scale}

    def activations(name: str, dims: Mapping[str, int]) -> int:
        counted = networks[name].activations if name in networks else None
        return item * counted(dims, traits.fused_attention) if counted else 0

    return RunMemory(
        size=size,
        pictures=pictures,
        weights_bytes=sum(weights.values()),
        cache_bytes=cache,
        loop_bytes=loop_bytes(facts, specs, shape) - cache,
        full_bytes=activations("large", whole),
        region_bytes=activations("large", region) if shape.active else 0,
        small_bytes=max(activations("small", whole), activations("light", whole)),
        condition_bytes=activations("condition_large", {"G": shape.rows, "S": shape.steps}),
        decoder_bytes=activations("vae_decoder", decoded),
        process_bytes=RUNNER_PROCESS if traits.on_cpu else DEVICE_PROCESS,
    )
