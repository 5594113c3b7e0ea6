"""One bundle built and checked, and large alone in torch beside it; each in a process of its own.

A GPU that has failed once fails its whole process, a library may crash it, and memory is measured by process. A part
that fails is told, and the next one goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from hsengines.backend import get_backend
from hsengines.build import BuildOptions, build_options
from hsengines.errors import HSError
from hsexport.build.quiet import hush_libraries
from hsexport.measure.building import Watched
from hsexport.measure.gpu_check.checks import CHECKS
from hsexport.measure.gpu_check.results import Asked, Problem, Row, Target, TargetResult, TorchTime
from hsexport.measure.machine import gpu_facts
from hsexport.measure.processes import told_by_process
from hsexport.measure.prompts import PROMPT
from hsexport.measure.turns import in_turns, medians, seconds_of
from hsruntime.bundle.reader import Bundle

PRODUCTS = ("export", "optimise", "compile")  # stages whose items are kept for the next build
GOES_ON = "what is finished is kept, the same command goes on from there"


def build_target(asked: Asked, target: Target, notes: list[str]) -> tuple[Bundle, Row]:
    """The target's bundle, and how it was built. Raises HSError."""
    from hsexport.build.build import build
    from hsexport.build.request import BuildRequest

    out = asked.out / "bundles" / f"{target.backend}-{target.precision}"
    built_for: Any = {"backend": target.backend, "options": options_for(target, notes), "steps": asked.steps}
    drawn: Any = {"size": asked.size, "max_size": asked.size, "max_batch": asked.max_batch}
    out.parent.mkdir(parents=True, exist_ok=True)
    start = perf_counter()
    with Watched(GOES_ON) as report:
        bundle = build(BuildRequest(asked.large, asked.small, out, asked.cache, **built_for, **drawn), report)
    assert bundle is not None, "nothing here asks it to stop early"
    seconds, manifest = perf_counter() - start, bundle.manifest
    size_mb = sum(file.size_bytes for file in manifest.files) / 1e6
    products = [item["note"].startswith("kept") for item in report.items if item["stage"] in PRODUCTS]
    made = {"kept": products.count(True), "made": products.count(False)}  # kept: an earlier build had left them
    facts = {"seconds": seconds, "size_mb": size_mb, "builder": manifest.tools["builder"], "target": manifest.target}
    return bundle, facts | made


def options_for(target: Target, notes: list[str]) -> BuildOptions:
    """For the GPU at hand alone, where the backend can be told so; what it says to that goes to `notes`."""
    plain, capability = build_options(target.backend, precision=target.precision), gpu_facts().get("compute_capability")
    if capability is None or "architectures" not in plain.__struct_fields__:
        return plain
    options = build_options(target.backend, precision=target.precision, architectures=(capability,))
    try:
        get_backend(target.backend).check_options(options)
    except HSError as err:
        notes.append(f"{err}; built for every architecture it knows instead, to see what it says when it loads them")
        return plain
    return options


def check_target(asked: Asked, target: Target, parts: tuple[str, ...] = tuple(CHECKS)) -> Iterator[TargetResult]:
    """Builds the bundle and runs the checks named in `parts`; the result so far, before each part and at the end.

    The part that comes next stands among its problems: should it end the process, this is what is left to tell.
    """
    result, bundles = TargetResult(target.backend, target.precision), list[Bundle]()

    def build() -> None:
        bundle, result.build = build_target(asked, target, result.notes)
        bundles.append(bundle)

    checks: dict[str, Callable[[], None]] = {"build": build}
    checks |= {name: lambda name=name: CHECKS[name](asked, bundles[0], result) for name in parts}  # type: ignore[misc]
    for name, check in checks.items():
        ended = Problem(name, "the process ended here")
        result.problems.append(ended)
        yield result
        result.problems.remove(ended)
        try:
            check()
        except Exception as err:  # a library's own, too: this machine's troubles are what the report is for
            result.problems.append(Problem(name, told(err)))
        if not bundles:
            break
    yield result


def torch_times(asked: Asked, precision: str, device: str) -> Iterator[TorchTime]:
    """Diffusers' own pipeline of large alone, eager, then compiled; a way that does not work here is told."""
    way = "eager"
    try:
        import torch

        from hsexport.build.recipe import recipe_for
        from hsexport.build.request import BuildRequest
        from hsexport.measure.speed import pipeline_for, pipeline_options

        torch.set_num_threads(asked.threads or torch.get_num_threads())
        recipe = recipe_for(BuildRequest(asked.large, asked.small, Path(), Path(), size=asked.size))
        pipeline = pipeline_for(recipe.pair, "large", precision).to(device)
        options: Any = {**pipeline_options(recipe.facts), "num_inference_steps": asked.steps}
        run = partial(
            seconds_of, lambda: pipeline(prompt=PROMPT, output_type="np", **options)
        )  # numpy waits for the device
        for way in ("eager", "compiled"):
            if way == "compiled":
                pipeline.transformer = torch.compile(pipeline.transformer)
            times = medians(in_turns({way: run}, asked.rounds))  # what warms up compiles
            yield TorchTime(way, precision, device, times[way])
    except Exception as err:  # a library is missing, a compiler, or memory
        yield TorchTime(way, precision, device, problem=told(err))


def told(err: BaseException) -> str:
    """An error in one line."""
    first = next(iter(str(err).strip().splitlines()), "")
    return str(err) if isinstance(err, HSError) else f"{type(err).__name__}: {first}"


def checked_in_child(asked: Asked, target: Target) -> TargetResult:
    """The target's result, with the process's end among its problems if that was not its own."""
    answers, ended = _in_child(check_target, asked, target)
    result: TargetResult = answers[-1] if answers else TargetResult(target.backend, target.precision)
    if ended:
        at = result.problems.pop() if result.problems else Problem("start", "")
        result.problems.append(Problem(at.part, ended))
    return result


def torch_in_child(asked: Asked, precision: str, device: str) -> list[TorchTime]:
    """Torch's times; a row that tells of the process's end if that was not its own."""
    answers, ended = _in_child(torch_times, asked, precision, device)
    return answers + ([TorchTime("torch", precision, device, problem=ended)] if ended else [])


def _in_child(call: Callable[..., Iterator[Any]], *arguments: object) -> tuple[list[Any], str]:
    """The generator's answers, and how its process ended in words; empty for a proper end."""
    found = told_by_process(_gathered, call, arguments)
    ended = f"the process ended with {found.ended}" if found.ended else told(found.error) if found.error else ""
    return found.answer or [], ended


def _gathered(call: Callable[..., Iterator[Any]], arguments: tuple[object, ...]) -> Iterator[list[Any]]:
    """All answers so far, after each of them."""
    answers = []
    with hush_libraries():
        for answer in call(*arguments):
            answers.append(answer)
            yield answers
