"""Large alone and small alone without this package's graphs: diffusers' pipeline, its transformer run by torch, by
torch.compile, or by OpenVINO from its own reading of the module.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from hsexport.measure.prompts import PROMPT
from hsexport.measure.speed import pipeline_for, pipeline_options
from hsruntime.bundle.reader import open_bundle
from hsruntime.facts import Facts

if TYPE_CHECKING:
    from torch import nn

SCHEDULES = ("large", "small")


@contextmanager
def straight_loops(bundle: Path, threads: int, way: str, precision: str) -> Iterator[Callable[[str], float]]:
    """As hsexport.measure.backends.loops, but with the pipeline of the bundle's pair."""
    import torch

    from hsexport.build.quiet import hush_libraries
    from hsexport.families.pair import load_pair

    torch.set_num_threads(threads)
    facts, pipelines = open_bundle(bundle, hashes=False).manifest.facts, {}
    with hush_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pair = load_pair(facts.large.source, facts.small.source if facts.small else None)

        def seconds(role: str) -> float:
            if role not in pipelines:
                made, dtype = WAYS[way]
                pipeline = pipeline_for(pair, role, dtype or precision)
                pipeline.transformer = made(pipeline.transformer, threads, precision)
                pipelines[role] = pipeline
            return _loop_seconds(pipelines[role], facts)

        yield seconds


def _loop_seconds(pipeline: Any, facts: Facts) -> float:
    """Of the bundle's default steps, from the end of the first to that of the last, and as much again for the first."""
    steps, ends = facts.defaults.steps, []

    def ended(pipeline: Any, step: int, timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
        del pipeline, step, timestep
        ends.append(perf_counter())
        return kept

    options = pipeline_options(facts) | {"output_type": "latent", "callback_on_step_end": ended}
    pipeline(prompt=PROMPT, num_inference_steps=steps, **options)
    return (ends[-1] - ends[0]) * steps / (steps - 1)


def _as_it_is(model: nn.Module, threads: int, precision: str) -> nn.Module:
    del threads, precision
    return model


def _compiled(model: nn.Module, threads: int, precision: str) -> nn.Module:
    del threads, precision
    model.compile()
    return model


def _read_by_openvino(model: nn.Module, threads: int, precision: str) -> nn.Module:
    """The same module, run by OpenVINO."""
    import torch

    from hsengines.openvino.straight import compiled_module

    answers: list[Callable[..., Any]] = []
    before = model.forward

    def forward(**given: Any) -> tuple[torch.Tensor]:
        tensors = {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}
        if not answers:
            model.forward = before
            answers.append(compiled_module(model, tensors, threads, precision))
            model.forward = forward
        return (torch.from_numpy(answers[0]({name: value.numpy() for name, value in tensors.items()})),)

    model.forward = forward
    return model


WAYS: dict[str, tuple[Callable[..., nn.Module], str]] = {
    "torch": (_as_it_is, ""),
    "torch.compile": (_compiled, ""),
    "OpenVINO on the module": (_read_by_openvino, "fp32"),
}
"""How a transformer is run, and what its weights are in where that is not the precision that it computes in."""
RIVALS = tuple((way, precision) for way in WAYS for precision in ("fp32", "bf16"))
