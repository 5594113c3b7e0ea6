"""The same schedule of large alone in torch: eager and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from hsexport.measure.gpu_check.plan import PROMPT, Plan
from hsexport.measure.gpu_check.results import TorchTime

NEEDED = ("torch", "diffusers", "transformers")
ROWS = 2
"""Guidance's two rows."""


def torch_times(plan: Plan, precision: str, device: str) -> Iterator[TorchTime]:
    """Eager, then compiled; a way that does not work here is told. Nothing where torch or its CUDA is missing."""
    covers = "whole pictures" if plan.scale == "demo" else "the loop alone"
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        yield TorchTime("eager", precision, device, covers, None, f"{missing[0]} is not installed")
        return
    try:
        run, compile_large = (_pipeline if plan.scale == "demo" else _plain_loop)(plan, precision, device)
    except Exception as err:
        yield TorchTime("eager", precision, device, covers, None, _told(err))
        return
    for way in ("eager", "compiled"):
        try:
            if way == "compiled":
                compile_large()
            yield TorchTime(way, precision, device, covers, _median_seconds(run, plan.rounds, device))
        except Exception as err:  # a compiler is missing, or memory
            yield TorchTime(way, precision, device, covers, None, _told(err))


def _pipeline(plan: Plan, precision: str, device: str) -> tuple[Callable[[], Any], Callable[[], None]]:
    """Diffusers' own pipeline, at the length of texts that the pair's tokenizers have."""
    import torch

    from hsexport.build.recipe import recipe_for
    from hsexport.build.request import BuildRequest
    from hsexport.measure.bench.eager import pipeline_for

    _use_threads(plan)
    recipe = recipe_for(BuildRequest(plan.large, plan.small, Path(), Path(), size=plan.size))
    pipeline = pipeline_for(recipe.pair, "large").to(device, _dtype(precision))
    width, height = recipe.facts.sizes.default

    def run() -> None:
        options = {"num_inference_steps": plan.steps, "guidance_scale": recipe.facts.defaults.guidance_scale}
        length = recipe.facts.text_tokens - recipe.facts.slots[0].length
        pipeline(PROMPT, width=width, height=height, output_type="np", max_sequence_length=length, **options)

    def compile_large() -> None:
        pipeline.transformer = torch.compile(pipeline.transformer)

    return run, compile_large


def _plain_loop(plan: Plan, precision: str, device: str) -> tuple[Callable[[], Any], Callable[[], None]]:
    """Large's transformer, guidance and Euler's step; text is random, for its numbers cost the same."""
    import torch

    from hsexport.build.recipe import recipe_for
    from hsexport.build.request import BuildRequest
    from hsexport.families.sd3.original import original_of
    from hsruntime.loop.flow import sigmas_for

    _use_threads(plan)
    recipe = recipe_for(BuildRequest(plan.large, plan.small, Path(), Path(), size=plan.size))
    dtype = _dtype(precision)
    model = original_of(recipe.pair.large, dtype).to(device)
    width, height = recipe.facts.sizes.default
    place: dict[str, Any] = {"device": device, "dtype": dtype}
    latent = recipe.facts.latent
    noise = torch.randn(1, latent.channels, height // latent.vae_scale, width // latent.vae_scale)
    text = torch.randn(ROWS, recipe.facts.text_tokens, recipe.pair.large.config.joint_attention_dim).to(**place)
    pooled = torch.randn(ROWS, recipe.pair.large.config.pooled_projection_dim).to(**place)
    sigmas = torch.from_numpy(sigmas_for(recipe.facts.sigmas, plan.steps)).to(device)
    network = [model]

    @torch.inference_mode()
    def run() -> None:
        latents = noise.to(device)
        for now, after in pairwise(sigmas):
            timestep = (now * recipe.facts.sigmas.levels).expand(ROWS)
            rows = latents.to(dtype).expand(ROWS, -1, -1, -1)
            untold, told = network[0](rows, text, pooled, timestep, return_dict=False)[0].float().chunk(2)
            latents = latents + (after - now) * (untold + recipe.facts.defaults.guidance_scale * (told - untold))

    def compile_large() -> None:
        network[0] = torch.compile(model)

    return run, compile_large


def _median_seconds(run: Callable[[], Any], rounds: int, device: str) -> float:
    """After a first call, which warms up or compiles."""
    import torch

    times = []
    for _ in range(rounds + 1):
        start = perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(perf_counter() - start)
    return median(times[1:])


def _use_threads(plan: Plan) -> None:
    import torch

    if plan.threads:
        torch.set_num_threads(plan.threads)


def _dtype(precision: str) -> Any:
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def _told(err: Exception) -> str:
    first = next(iter(str(err).strip().splitlines()), "")
    return f"{type(err).__name__}: {first}"
