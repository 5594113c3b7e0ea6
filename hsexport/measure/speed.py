"""What a bundle's pictures cost: by schedule, beside diffusers, outside its engines, and inside them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console
from rich.progress import track

from hsengines.backend import Backend, get_backend
from hsengines.cores import usable_cores
from hsengines.spec import EngineSpec, numpy_dtype
from hsexport.build.quiet import hush_libraries
from hsexport.measure.bench.rounds import Contestant, Shot
from hsexport.measure.blocks import PATH, Measured, bundle_argument, measured_on, measurement, table, threads_option
from hsexport.measure.prompts import PROMPT, Prompt
from hsexport.measure.turns import column, in_turns, medians, outside_engines, schedule_times, seconds_of, speedups
from hsruntime import Session
from hsruntime.bundle.reader import Bundle, open_bundle
from hsruntime.facts import Facts, size_text
from hsruntime.loop.flow import seeded_noise
from hsruntime.options import SessionOptions
from hsruntime.picture.decode import picture_bytes
from hsruntime.picture.picture import contact_sheet as drawn_sheet
from hsruntime.picture.picture import region_overlay
from hsruntime.schedule.arithmetic import step_flops
from hsruntime.schedule.presets import resolve_schedule
from hsruntime.schedule.schedule import Schedule

if TYPE_CHECKING:
    from hsexport.families.pair import Pair

DEFAULT_STEPS = 28  # the pipeline's own
PAUSE_SECONDS = 0.05  # lets the other library's threads fall asleep


PROMPTS = ("red apple", "fox", "violin", "birthday cake", "octopus", "red paper lantern")
KINDS = {
    "products": (
        *("Gemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulNBits", "MatMulIntegerToFloat", "Attention"),
        *("FullyConnected", "FullyConnectedCompressed", "FullyConnectedQuantizedLegacy"),
    ),
    "norms and elementwise": (
        *("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization", "SkipLayerNormalization"),
        *("SkipSimplifiedLayerNormalization", "Gelu", "FastGelu", "Sigmoid", "QuickGelu", "QuantizeLinear"),
        *("Add", "Mul", "Sin", "Cos"),
        *("Subgraph", "MVN", "RMS", "FakeQuantize", "Multiply", "PowerStatic", "Eltwise"),
    ),
}
"""ONNX Runtime's operators and OpenVINO's by kind; every other one moves numbers about or bends their shape."""
MOVING = "moving"
ROWS = 2  # guidance's


def schedules_for(facts: Facts) -> dict[str, Schedule]:
    """The three columns' schedules: as many steps of large, as the bundle stitches by default, and of small."""
    stitched = resolve_schedule(facts.defaults.schedule, None, facts.defaults.steps)
    alone = {name: resolve_schedule(name, stitched.steps, stitched.steps) for name in ("large", "small")}
    return {"large only": alone["large"], "stitched": stitched, "small only": alone["small"]}


def draw_columns(session: Session, prompts: tuple[str, ...], seed: int) -> dict[str, list[np.ndarray]]:
    """One column of pictures per schedule, and the region that the stitched one chose, if it has one."""
    schedules = schedules_for(session.manifest.facts)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in [*schedules, "region"]}
    for prompt in track(prompts, "pictures", console=Console(stderr=True), transient=True):
        for name, schedule in schedules.items():
            result = session.generate(prompt, seed=seed, schedule=schedule)
            columns[name].append(result.image)
            if name == "stitched":
                region = None if result.region is None else region_overlay(result.image, result.region[0], result.grid)
                columns["region"].append(result.image if region is None else region)
    return columns


def schedules_block(report: Measured) -> str:
    """Speeds of the three schedules."""
    bundle = report["bundle"]
    columns = "{name} | loop ms: {loop_ms:.0f} | speedup: {speedup:.2f} | by counting operations: {predicted:.2f}"
    rows = [row | {"name": name} for name, row in report["schedules"].items()]
    told = table(f"{size_text(bundle['size'])} pixels: {columns} | schedule: `{{schedule}}`", rows)
    return told + measured_on(report, f"{bundle['backend']}, {bundle['precision']}")


@measurement(schedules_block)
@bundle_argument
@click.option("--out", type=PATH, default=Path("contact_sheet.png"), help="the sheet, a PNG")
@click.option("--prompt", multiple=True, default=PROMPTS, help="a row; repeatable")
@click.option("--seed", default=0, help="of every picture's first noise")
@click.option("--rounds", default=5, type=click.IntRange(1), help="of timing after a warm-up")
@threads_option
def contact_sheet(
    bundle: Path, out: Path, prompt: tuple[str, ...], seed: int, rounds: int, threads: int
) -> dict[str, Any]:
    """Draw large only, stitched, small only and the region for some prompts, and measure the speedup; without torch."""
    with Session.open(bundle, threads=threads) as session:
        manifest, facts = session.manifest, session.manifest.facts
        columns = draw_columns(session, prompt, seed)
        out.parent.mkdir(parents=True, exist_ok=True)
        drawn_sheet(columns, list(prompt)).save(out)
        click.echo(f"contact sheet: {out}", err=True)
        with Console(stderr=True).status(f"timing {rounds} rounds"):
            times = schedule_times(session, schedules_for(facts), rounds)
    return {
        "bundle": {"backend": manifest.backend, "precision": manifest.precision, "size": facts.sizes.default},
        "guidance_scale": facts.defaults.guidance_scale,
        "rounds": rounds,
        "schedules": {row["name"]: row for row in times},
    }


def pipeline_for(pair: Pair, model: str, precision: str = "fp32") -> Any:
    """Diffusers' own pipeline, eager, of the pair's shared parts and one of its transformers."""
    import torch

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    transformer = pair.family.original(getattr(pair, model), dtype)
    return _quiet(pair.shared["vae"].parent, torch_dtype=dtype, transformer=transformer)


def pipeline_options(facts: Facts) -> dict[str, Any]:
    """What makes the pipeline draw the bundle's default picture, but for prompt, steps and noise."""
    width, height = facts.sizes.default
    side = facts.text[facts.large.text]
    # What stands behind the first encoder's tokens, or where they are all there are, these.
    length = side.tokens - side.encoders[0].length or side.tokens
    guidance = facts.defaults.guidance_scale
    return {"width": width, "height": height, "guidance_scale": guidance, "max_sequence_length": length}


def diffusers_contestant(source: str, facts: Facts, threads: int) -> Contestant:
    """Draws with the pipeline of a directory, a hub id or `demo`, at its default steps and from the bundle's noise.

    Raises PairError.
    """
    import torch

    from hsexport.checkpoints.documents import PairError
    from hsexport.checkpoints.source import resolve_source
    from hsexport.families.registry import known_parts

    torch.set_num_threads(threads)
    folder = resolve_source(source, "large", known_parts())
    if not (folder / "model_index.json").is_file():
        raise PairError(f"'{source}' is no whole pipeline: no model_index.json", "name the pipeline that large is from")
    pipeline, options = _quiet(folder, torch_dtype=torch.float32), pipeline_options(facts)
    shape = (facts.latent.channels, *(side // facts.latent.vae_scale for side in reversed(facts.sizes.default)))

    def draw(prompt: Prompt) -> Shot:
        noise = torch.from_numpy(seeded_noise(shape, [prompt.seed]))
        time.sleep(PAUSE_SECONDS)
        start = time.perf_counter()
        made = pipeline(
            prompt=prompt.text, num_inference_steps=DEFAULT_STEPS, latents=noise, output_type="np", **options
        )
        picture = picture_bytes(np.asarray(made.images))[0]
        seconds = time.perf_counter() - start
        time.sleep(PAUSE_SECONDS)
        return Shot(picture, None, seconds, 0.0, f"{DEFAULT_STEPS} Euler steps", 0.0)

    return draw


def _quiet(folder: Path, **parts: Any) -> Any:
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def compare(session: Session, pair: Pair, model: str, rounds: int) -> dict[str, Any]:
    """One model alone, whole pictures: text, loop, decoding; ours and theirs in turns."""
    facts = session.manifest.facts
    steps, pipeline = facts.defaults.steps, pipeline_for(pair, model)

    def timed(call: Callable[[], Any]) -> float:
        time.sleep(PAUSE_SECONDS)
        return seconds_of(call)

    ours = partial(session.generate, PROMPT, schedule=f"{model}:{steps}")
    theirs = partial(pipeline, prompt=PROMPT, num_inference_steps=steps, output_type="np", **pipeline_options(facts))
    played = in_turns({"ours": partial(timed, ours), "theirs": partial(timed, theirs)}, rounds)
    found, ratios = medians(played), speedups(column(played, "theirs"), column(played, "ours"))
    times = {"ours_ms": 1000 * found["ours"], "diffusers_ms": 1000 * found["theirs"]}
    return {"model": model, **times, "speedup": float(np.median(ratios))}


def speed_block(report: Measured) -> str:
    """Both models, and the share of the stitched loop that is not the engines'."""
    columns = (
        "whole picture: {model} only | hsexport ms: {ours_ms:.0f} | diffusers eager ms: {diffusers_ms:.0f}"
        " | speedup: {speedup:.2f}"
    )
    outside = f"\nOf the stitched loop's time {report['outside_engines']:.2%} passes outside the engines.\n"
    return table(columns, report["rows"]) + outside + measured_on(report)


@measurement(speed_block)
@bundle_argument
@click.option("--large", help="what it was built from, if that was a local path")
@click.option("--small", help="the same")
@click.option("--rounds", default=7, help="in turns")
@threads_option
def speed(bundle: Path, large: str | None, small: str | None, rounds: int, threads: int) -> dict[str, Any]:
    """Measure large alone and small alone, ours and diffusers' pipeline, in one process with the same threads."""
    import torch

    from hsexport.families.pair import load_pair

    count = threads or usable_cores()
    torch.set_num_threads(count)
    opened = open_bundle(bundle)
    facts = opened.manifest.facts
    pair = load_pair(large or facts.large.source, small or (facts.small.source if facts.small else None))
    with hush_libraries(), warnings.catch_warnings(), Session(opened, SessionOptions(threads=count)) as session:
        warnings.simplefilter("ignore")
        rows = [compare(session, pair, model, rounds) for model in facts.members]
        empty, whole = outside_engines(session, rounds)
    return {"outside_engines": empty / whole, "rows": rows}


def profiled(
    backend: Backend, engine: Path, spec: EngineSpec, dims: dict[str, int], rounds: int, threads: int
) -> tuple[float, dict[str, float]]:
    """Seconds of a run, the median, and the share of operators' time by kind of work."""
    rng = np.random.default_rng(0)
    drawn = {t.name: (rng.random(t.resolve(dims)), numpy_dtype(t.dtype)) for t in spec.inputs}
    inputs = {name: array.astype(dtype) for name, (array, dtype) in drawn.items()}
    runs, operators = backend.profile(engine, inputs, rounds, threads)
    spent = dict.fromkeys((*KINDS, MOVING), 0.0)
    for operator, seconds in operators.items():
        spent[next((kind for kind, known in KINDS.items() if operator in known), MOVING)] += seconds
    whole = sum(spent.values())
    return float(np.median(runs)), {kind: seconds / whole for kind, seconds in spent.items()}


@measurement(
    "bundle: {bundle} | step: {step} | ms: {ms:.0f} | counted GFLOP a second: {gflops_per_second:.0f}"
    " | share of products: {shares[products]:.2f} | of norms and elementwise: {shares[norms and elementwise]:.2f}"
    " | of moving numbers: {shares[moving]:.2f}"
)
@click.argument("bundles", nargs=-1, required=True, type=PATH)
@click.option("--rounds", default=100, type=click.IntRange(1), help="steps of each, after one that does not count")
@threads_option
def profile_engines(bundles: tuple[Path, ...], rounds: int, threads: int) -> dict[str, Any]:
    """Profile a step of large, of large on the region, and of small; BUNDLES are for CPUs.

    It explains why a schedule falls short of what counting operations promises, since only matrix products are counted,
    and why one bundle is faster than another. OpenVINO's attention is in its fused elementwise code.
    """
    return {"rows": [row for bundle in bundles for row in profile_rows(open_bundle(bundle), rounds, threads)]}


def profile_rows(opened: Bundle, rounds: int, threads: int) -> list[dict[str, Any]]:
    """One row a step."""
    facts, rows, backend = opened.manifest.facts, [], get_backend(opened.manifest.backend)
    steps = {"large": ("large", "full"), "large on the region": ("large", "region"), "small": ("small", "full")}
    for step, (name, profile) in steps.items():
        record = opened.manifest.engines[name]
        sizes = next(each for each in record.spec.profiles if each.name == profile).dims
        dims = {dim: size.optimum for dim, size in sizes.items()} | {"G": ROWS}
        active = dims.get("M", dims.get("N", 0))
        flops = ROWS * step_flops(getattr(facts, name), active, active + dims.get("R", 0), facts.text_tokens)
        seconds, shares = profiled(backend, opened.file(record.file), record.spec, dims, rounds, threads)
        rate = flops / 1e9 / seconds
        rows.append(
            {"step": step, "ms": 1000 * seconds, "gflops": flops / 1e9, "gflops_per_second": rate, "shares": shares}
            | {"bundle": opened.path.name}
        )
    return rows
