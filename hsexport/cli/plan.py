"""`hsexport plan`: works without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hsengines.weights import UNQUANTIZED
from hsexport.build.request import BuildRequest
from hsexport.cli.build_options import build_request
from hsexport.cli.command import FILE, command, json_option, one_of
from hsexport.plan.gpus import GPUS, gpu_named
from hsexport.plan.plan import Plan, plan_for
from hsexport.report import tables_console
from hsruntime.facts import size_text

GB, TERA = 1e9, 1e12
MEMORY = {
    "weights": "weights_bytes",
    "keys, values": "cache_bytes",
    "loop": "loop_bytes",
    "large": "full_bytes",
    "region": "region_bytes",
    "small": "small_bytes",
    "decoder": "decoder_bytes",
    "in all, GB": "total_bytes",
}
"""Columns, and what of RunMemory stands in them."""


@command()
@click.option("--out", type=FILE, default=Path("bundle"), help="where the bundle would go")
@build_request
@click.option("--gpu", shell_complete=one_of(lambda: GPUS), help=f"what it shall run on: {', '.join(GPUS)}")
@json_option("print everything for scripts")
def plan(request: BuildRequest, gpu: str | None, as_json: bool) -> None:
    """Tell what a build and its pictures will need, without loading anything: disk, memory, operations, time.

    Of a hub id configurations and headers alone are downloaded.
    """
    made = plan_for(request, gpu_named(gpu) if gpu else None)
    if as_json:
        click.echo(json.dumps(told(made), indent=2))
    else:
        print_plan(tables_console(), made)


def told(value: Any) -> Any:
    """Dataclasses as dicts of their fields and properties, all the way down."""
    if is_dataclass(value):
        properties = [name for name, member in vars(type(value)).items() if isinstance(member, property)]
        return {name: told(getattr(value, name)) for name in (*(f.name for f in fields(value)), *properties)}
    if isinstance(value, tuple):
        return [told(each) for each in value]
    return msgspec.to_builtins(value)


def print_plan(console: Console, plan: Plan) -> None:
    """Facts first, then what will not fit."""
    sizes = plan.sizes
    default, largest = map(size_text, (sizes.default, sizes.maximum))
    console.print(f"{plan.backend} {plan.precision}, {default} to {largest}, up to {sizes.max_batch} at once")
    for table in (_networks(plan), _stages(plan), _memory(plan), _work(plan)):
        console.print()
        console.print(table)
    console.print()
    for line in _picture(plan):
        console.print(line)
    for shortfall in plan.shortfalls:
        told = f": {shortfall}; {' or '.join(shortfall.hints)}"
        console.print(Text.assemble(("no room", "red"), told), soft_wrap=True)
    if not plan.shortfalls:
        console.print("all of it finds room here")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _networks(plan: Plan) -> Table:
    table = _table("weights", "parameters, M", "on disk, GB", "stored in", "in the bundle, GB")
    for network in plan.networks:
        if network.tensors:
            disk, bundle = (_gb(size) for size in (network.checkpoint_bytes, network.bundle_bytes))
            stored = network.precision if network.weights == UNQUANTIZED else network.weights
            table.add_row(network.name, f"{network.parameters / 1e6:.1f}", disk, stored, bundle)
    total = sum(network.checkpoint_bytes for network in plan.networks)
    count = sum(network.parameters for network in plan.networks)
    table.add_row("all", f"{count / 1e6:.1f}", _gb(total), "", _gb(plan.bundle_bytes))
    return table


def _stages(plan: Plan) -> Table:
    table = _table("stage", "disk, GB", "memory, GB", "")
    table.columns[-1].justify = "left"
    for stage in plan.stages:
        table.add_row(stage.name, _gb(stage.disk_bytes), _gb(stage.host_bytes), stage.why)
    free = plan.machine.cache_free_bytes + plan.machine.held_bytes
    table.add_row("here", _gb(free), _gb(plan.machine.memory_bytes), "free, and in the cache already")
    return table


def _memory(plan: Plan) -> Table:
    table = _table("running", *MEMORY)
    for case in plan.memory:
        table.add_row(f"{case.pictures} of {size_text(case.size)}", *(_gb(getattr(case, of)) for of in MEMORY.values()))
    return table


def _work(plan: Plan) -> Table:
    """A step with all its rows, by where its operations happen; what a GPU's peaks allow beside it."""
    gpu = plan.roofline.gpu.name if plan.roofline else ""
    columns = ["one step, TFLOP", *(part for part in plan.work.large.flops if part != "total"), "in all"]
    table = _table(*columns, *([f"{gpu}, ms", "bound by"] if gpu else []))
    times = plan.roofline
    for name in ("large", "region", "small", "light"):
        step, time = getattr(plan.work, name), getattr(times, name, None)
        if step:
            parts = tuple(step.flops.values())
            at_peak = (f"{1e3 * time.seconds:.1f}", time.bound) if time else ()
            table.add_row(name, *(f"{part / TERA:.3f}" for part in parts), *at_peak)
    return table


def _picture(plan: Plan) -> Iterator[str]:
    work, guided = plan.work, "guided" if plan.guidance_scale > 1 else "without guidance"
    yield (
        f"a picture  {plan.schedule}, {plan.steps} steps, {guided}: {work.flops / TERA:.0f} TFLOP "
        f"(text {work.text_flops / TERA:.1f}, decoding {work.decode_flops / TERA:.1f}); "
        f"large alone {work.reference_flops / TERA:.0f}"
    )
    yield f"speedup    {work.speedup:.2f} times as fast as large alone, transformers only, by counting"
    if line := plan.roofline:
        times = f"{line.picture_seconds:.2f} s, large alone {line.reference_seconds:.2f} s"
        yield f"roofline   {times} on {line.gpu.name} at its published peaks, which no kernel reaches"


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / GB:.2f}"
