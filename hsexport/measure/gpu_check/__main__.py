"""Checks what this machine can do with a pair, GPU or not: `scripts/gpu_check --help`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from hsengines.errors import HSError
from hsengines.traits import DEFAULT_BACKEND, traits_of
from hsexport.build.quiet import hush_libraries
from hsexport.cli.options import size_from_text
from hsexport.measure.gpu_check.child import Job
from hsexport.measure.gpu_check.children import checked_in_child, torch_in_child
from hsexport.measure.gpu_check.machine import GPU_BACKENDS, backend_states, machine_facts
from hsexport.measure.gpu_check.plan import Plan, Target
from hsexport.measure.gpu_check.results import BackendState, Report, TargetResult
from hsexport.measure.gpu_check.tables import sheets_of
from hsexport.measure.gpu_check.writing import write_files

LOG_WIDTH = 160


@dataclass(frozen=True)
class Choice:
    """What of the command line decides the pair and the targets."""

    scale: Literal["demo", "sd35"]
    backends: list[str]
    precisions: list[str]
    layers: int | None
    size: tuple[int, int] | None


def targets_for(states: list[BackendState], precisions: list[str]) -> list[Target]:
    """Every backend that works, in each precision asked for, or else its default."""
    working = [state.backend for state in states if not state.why_not]
    return [Target(name, precision) for name in working for precision in precisions or traits_of(name).precisions[:1]]


def pair_for(choice: Choice, targets: list[Target], out: Path, console: Console) -> tuple[str, str]:
    """Where large and small lie; a pair of SD3.5's shapes is made here. Raises HSError if it cannot be held."""
    if choice.scale == "demo":
        return "demo", "demo"
    import torch

    from hsexport.measure.gpu_check.room import refuse_if_too_small
    from random_pairs.pairs import make_pair
    from random_pairs.shapes import SD35

    shape = SD35.cut(choice.layers)
    refuse_if_too_small(shape, targets, out)
    on_shard = lambda shard: console.print(f"{shard.file}: shard {shard.number} of {shard.of}")  # noqa: E731
    with hush_libraries():
        large, small = make_pair(out / "pairs" / shape.name, shape, torch.bfloat16, on_shard)
    return str(large), str(small)


def check_all(plan: Plan, targets: list[Target], report: Report, console: Console) -> None:
    """Checks target after target, then torch; the report's files are written after each."""
    work = plan.out / "work"
    for target in targets:
        console.rule(str(target))
        report.targets.append(checked_in_child(Job(plan, target=target), work))
        write_files(report, plan.out)
    for precision in dict.fromkeys(result.precision for result in report.targets if result.schedules):
        on_cpu = all(traits_of(r.backend).on_cpu for r in report.targets if r.precision == precision)
        console.rule(f"torch {precision}")
        report.torch += torch_in_child(Job(plan, torch=(precision, "cpu" if on_cpu else "cuda")), work)
        write_files(report, plan.out)


def main(
    out: Annotated[Path, typer.Option(help="reports, bundles, pairs and the cache")] = Path("build/gpu_check"),
    scale: Annotated[
        Literal["demo", "sd35"], typer.Option(help="the demo pair, or SD3.5's shapes with random weights")
    ] = "demo",
    backend: Annotated[
        list[str] | None, typer.Option(help="repeat it for several; default: every GPU backend that works here")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="fp32, fp16, bf16; repeat it for several; default: the backend's own")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="of every measurement, after one that warms up")] = 5,
    steps: Annotated[int, typer.Option(min=3, help="of every whole schedule")] = 28,
    ratio: Annotated[float, typer.Option(help="of the region")] = 0.3,
    layers: Annotated[int | None, typer.Option(min=1, help="cut sd35's transformers down to so many")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="default: what large was trained at")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads, 0 for all")] = 0,
    cache: Annotated[Path | None, typer.Option(help="where finished products are kept; default: OUT/cache")] = None,
) -> None:
    """Build what this machine can build, measure it, and write a table and a JSON file.

    Killed anywhere, the same command goes on at the product it was building. Needs no network.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    pixels = size_from_text(size) if size else None
    choice = Choice(scale, list(backend or GPU_BACKENDS), list(precision or ()), layers, pixels)
    report = Report(
        date=datetime.now(UTC).date().isoformat(),
        hardware=machine_facts(threads),
        plan={"scale": scale, "layers": layers or "all", "steps": steps, "ratio": ratio, "rounds": rounds},
        backends=backend_states(choice.backends),
    )
    targets = targets_for(report.backends, choice.precisions)
    if targets:
        large, small = pair_for(choice, targets, out, console)
        plan = Plan(
            large=large,
            small=small,
            scale=scale,
            out=out,
            cache=cache or out / "cache",
            size=pixels,
            max_batch=4 if scale == "demo" else 1,
            steps=steps,
            ratio=ratio,
            rounds=rounds,
            threads=threads,
        )
        check_all(plan, targets, report, console)
    files = write_files(report, out)
    for sheet in sheets_of(report):
        console.print(sheet.rich())
    console.print(f"written: {', '.join(map(str, files))}", soft_wrap=True)
    if not targets:
        raise HSError("no backend works here; the table says why", f"--backend {DEFAULT_BACKEND} needs no GPU")
    if not any(map(has_run, report.targets)):
        raise HSError("no bundle could be built and run; the table says why")


def has_run(result: TargetResult) -> bool:
    """Whether a bundle of it was built and made a picture."""
    return result.build is not None and bool(result.schedules)


if __name__ == "__main__":
    try:
        typer.run(main)
    except HSError as err:
        raise SystemExit(f"gpu_check: {err}") from None
