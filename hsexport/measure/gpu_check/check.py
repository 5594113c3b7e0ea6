"""What this machine can do with a pair, GPU or not: `scripts/gpu_check --help`."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import msgspec

from hsengines.backend import get_backend
from hsengines.errors import BackendUnavailable, HSError
from hsengines.traits import DEFAULT_BACKEND, backend_names, traits_of
from hsexport.measure.blocks import PATH, show, today
from hsexport.measure.gpu_check.results import Asked, BackendState, Report, Target, block, write_files
from hsexport.measure.gpu_check.scales import SCALES, Scale
from hsexport.measure.gpu_check.target import checked_in_child, torch_in_child
from hsexport.measure.machine import gpu_facts, hardware
from hsexport.measure.processes import random_pair
from hsexport.plan.machine import available_memory, existing, held_bytes
from hsexport.plan.measured import BUILDER_COPIES

GPU_BACKENDS = tuple(name for name in backend_names() if not traits_of(name).on_cpu)
GIB = 2**30
DEMO = "demo"
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


def backend_states(names: Iterable[str]) -> Iterator[BackendState]:
    """Whether each backend works here; its library's own words where it does not."""
    for name in names:
        try:
            backend = get_backend(name)
            yield BackendState(name, backend.version(), backend.why_not_here())
        except BackendUnavailable as err:
            yield BackendState(name, "", str(err))


def targets_for(states: list[BackendState], precisions: tuple[str, ...]) -> list[Target]:
    """Every backend that works, in each precision asked for, or else its default."""
    working = [state.backend for state in states if not state.why_not]
    return [Target(name, precision) for name in working for precision in precisions or traits_of(name).precisions[:1]]


def needed(scale: Scale, layers: int | None, targets: list[Target]) -> tuple[int, int]:
    """Bytes of memory and of disk for a pair of that scale, cut to so many layers.

    Checkpoints are 16 bits a number, and the export holds none of them. Each target keeps at most one copy in its own
    precision and the engine, which the bundle shares; its builder holds the larger transformer BUILDER_COPIES times.
    """
    counts = scale.numbers(layers)
    widest, per_number = (pick(2 * BYTES[t.precision] for t in targets) for pick in (max, sum))
    return int(BUILDER_COPIES * widest // 2 * max(counts)) + GIB, sum(counts) * (2 + per_number) + GIB


def refuse_if_too_small(scale: Scale, layers: int | None, targets: list[Target], out: Path) -> None:
    """Raises HSError where memory or disk will not do; what an earlier run wrote counts as free."""
    memory, disk = needed(scale, layers, targets)
    free = shutil.disk_usage(existing(out)).free + held_bytes(out)
    hint = "try --layers 4, or another machine"
    if available_memory() < memory:
        raise HSError(f"the pair needs {memory / GIB:.0f} GiB of memory, {available_memory() / GIB:.0f} are free", hint)
    if free < disk:
        raise HSError(f"{out} needs {disk / GIB:.0f} GiB of disk, {free / GIB:.0f} are free", "name another --out")


def pair_for(scale: str, layers: int | None, targets: list[Target], out: Path) -> tuple[str, str]:
    """Where large and small lie; all but the demo's are made here. Raises HSError if they cannot be held."""
    if scale == DEMO:
        return DEMO, DEMO
    refuse_if_too_small(SCALES[scale], layers, targets, out)
    cut = ("--layers", str(layers)) if layers else ()
    pair = random_pair(out / "pairs" / "-".join([scale, *cut[1:]]), *SCALES[scale].options, "--text", "tiny", *cut)
    return str(pair / "large"), str(pair / "small")


def check_all(asked: Asked, targets: list[Target], report: Report) -> None:
    """Checks target after target, then torch; the report's files are written after each."""
    for target in targets:
        click.echo(f"== {target}")
        report.targets.append(checked_in_child(asked, target))
        write_files(report, asked.out)
    for precision in dict.fromkeys(result.precision for result in report.targets if result.schedules):
        on_cpu = all(traits_of(r.backend).on_cpu for r in report.targets if r.precision == precision)
        click.echo(f"== torch {precision}")
        report.torch += torch_in_child(asked, precision, "cpu" if on_cpu else "cuda")
        write_files(report, asked.out)


@click.command("gpu_check")
@click.option("--out", type=PATH, default=Path("build/gpu_check"), help="reports, bundles, pairs and the cache")
@click.option(
    "--scale",
    type=click.Choice([DEMO, *SCALES]),
    default=DEMO,
    help=f"the demo pair, or with random weights {' or '.join(scale.told for scale in SCALES.values())}",
)
@click.option("--backend", "backends", multiple=True, help="repeat it; default: every GPU backend that works here")
@click.option("--precision", "precisions", multiple=True, help="repeat it; default: the backend's own")
@click.option("--rounds", type=click.IntRange(1), default=5, help="of every measurement, after one that warms up")
@click.option("--steps", type=click.IntRange(3), default=28, help="of every whole schedule")
@click.option("--ratio", default=0.3, help="of the region")
@click.option("--layers", type=click.IntRange(1), help="cut every kind of layers of such transformers down to so many")
@click.option("--size", nargs=2, type=int, metavar="WIDTH HEIGHT", help="default: what large was trained at")
@click.option("--threads", default=0, help="CPU threads, 0 for all")
@click.option("--cache", type=PATH, help="where finished products are kept; default: OUT/cache")
def gpu_check(
    out: Path,
    scale: str,
    backends: tuple[str, ...],
    precisions: tuple[str, ...],
    layers: int | None,
    cache: Path | None,
    **measured: Any,
) -> None:
    """Build what this machine can build, measure it, and write a table and a JSON file.

    Killed anywhere, the same command goes on at the product it was building. Needs no network.
    """
    report = Report(
        date=today(),
        hardware=asdict(hardware(measured["threads"])) | gpu_facts(),
        plan={"scale": scale, "layers": layers or "all", **{n: measured[n] for n in ("steps", "ratio", "rounds")}},
        backends=list(backend_states(backends or GPU_BACKENDS)),
    )
    targets = targets_for(report.backends, precisions)
    if targets:
        pair = pair_for(scale, layers, targets, out)
        max_batch = 4 if scale == DEMO else 1
        check_all(Asked(*pair, out, cache or out / "cache", max_batch=max_batch, **measured), targets, report)
    files = write_files(report, out)
    show(block(msgspec.to_builtins(report)))
    click.echo(f"written: {', '.join(map(str, files))}")
    if not targets:
        raise HSError("no backend works here; the table says why", f"--backend {DEFAULT_BACKEND} needs no GPU")
    if not any(result.build and result.schedules for result in report.targets):
        raise HSError("no bundle could be built and run; the table says why")
