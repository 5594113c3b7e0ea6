#!/usr/bin/env python3
"""Draws a contact sheet from a bundle and measures its speedup: `scripts/measure contact_sheet BUNDLE --out sheet.png`.

Needs the runtime alone: no torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from hsengines.errors import HSError
from hsexport.measure.bench.hardware import hardware
from hsruntime import Result, Session
from hsruntime.bundle.manifest import Manifest
from hsruntime.picture.picture import contact_sheet, region_overlay
from hsruntime.schedule.arithmetic import predicted_speedup
from hsruntime.schedule.presets import resolve_schedule
from hsruntime.schedule.schedule import Schedule

PROMPTS = ["red apple", "fox", "violin", "birthday cake", "octopus", "red paper lantern"]


@dataclass(frozen=True)
class Speed:
    """One schedule's cost, measured beside large's in the same rounds."""

    schedule: str
    loop_ms: float
    """Median of the denoising loop."""
    speedup: float
    """Median over the rounds of large's loop time over this one's."""
    predicted: float
    """The same by counting operations."""


def schedules_for(manifest: Manifest) -> dict[str, Schedule]:
    """The three columns' schedules: as many steps of large, as the bundle stitches by default, and of small."""
    stitched = resolve_schedule(manifest.facts.defaults.schedule, None, manifest.facts.defaults.steps)
    return {
        "large only": resolve_schedule("large", stitched.steps, stitched.steps),
        "stitched": stitched,
        "small only": resolve_schedule("small", stitched.steps, stitched.steps),
    }


def draw_columns(
    session: Session, schedules: dict[str, Schedule], prompts: list[str], seed: int, progress: Progress
) -> dict[str, list[np.ndarray]]:
    """One column of pictures per schedule, and the region that the stitched one chose."""
    task = progress.add_task("pictures", total=len(prompts) * len(schedules))
    columns: dict[str, list[np.ndarray]] = {name: [] for name in [*schedules, "region"]}
    for prompt in prompts:
        for name, schedule in schedules.items():
            result = session.generate(prompt, seed=seed, schedule=schedule)
            columns[name].append(result.image)
            if name == "stitched":
                columns["region"].append(overlay_of(result))
            progress.advance(task)
        progress.console.print(f"drew {prompt}")
    return columns


def overlay_of(result: Result) -> np.ndarray:
    """The first picture with its region marked; the picture itself if the schedule has no region."""
    return result.image if result.region is None else region_overlay(result.image, result.region[0], result.grid)


def loop_seconds(
    session: Session, schedules: dict[str, Schedule], prompt: str, rounds: int, progress: Progress
) -> dict[str, np.ndarray]:
    """Loop times (rounds,) of each schedule. A round runs all of them, so that what slows the machine slows all."""
    task = progress.add_task("timing", total=(rounds + 1) * len(schedules))
    times: dict[str, list[float]] = {name: [] for name in schedules}
    for number in range(rounds + 1):
        for name, schedule in schedules.items():
            times[name].append(session.generate(prompt, seed=0, schedule=schedule).loop_seconds)
            progress.advance(task)
        told = ", ".join(f"{name} {own[-1]:.2f} s" for name, own in times.items())
        progress.console.print(f"{f'round {number}' if number else 'warm-up'}: {told}")
    return {name: np.array(own[1:]) for name, own in times.items()}  # the first round warms up


def speeds_from_times(
    manifest: Manifest, schedules: dict[str, Schedule], times: dict[str, np.ndarray]
) -> dict[str, Speed]:
    """Medians of the rounds; a ratio is taken within its round."""
    reference = times["large only"]
    return {
        name: Speed(
            schedule=str(schedule),
            loop_ms=1000 * median(times[name]),
            speedup=median(reference / times[name]),
            predicted=predicted_speedup(schedule, manifest.facts),
        )
        for name, schedule in schedules.items()
    }


def report(manifest: Manifest, speeds: dict[str, Speed], rounds: int, threads: int) -> dict[str, Any]:
    """All numbers and what they were measured on, for a JSON file."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": asdict(hardware(threads)),
        "bundle": {
            "backend": manifest.backend,
            "precision": manifest.precision,
            "size": list(manifest.facts.sizes.default),
        },
        "guidance_scale": manifest.facts.defaults.guidance_scale,
        "rounds": rounds,
        "schedules": {name: asdict(speed) for name, speed in speeds.items()},
    }


def write_report(path: Path, numbers: dict[str, Any]) -> None:
    """Writes the numbers as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


def print_speeds(console: Console, speeds: dict[str, Speed]) -> None:
    """The numbers for people."""
    table = Table("", "loop ms", "speedup", "predicted", Column("schedule", overflow="fold"), box=None)
    for name, speed in speeds.items():
        table.add_row(name, f"{speed.loop_ms:.0f}", f"{speed.speedup:.2f}", f"{speed.predicted:.2f}", speed.schedule)
    console.print(table)
    stitched = speeds["stitched"]
    console.print(f"speedup of stitched over large only: {stitched.speedup:.2f}, predicted {stitched.predicted:.2f}")


def progress_bar(console: Console) -> Progress:
    """Task, bar, count and time; gone when the work is done."""
    columns = TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console, transient=True)


def main(
    bundle: Annotated[Path, typer.Argument(help="a bundle that `hsexport build` wrote")],
    out: Annotated[Path, typer.Option(help="the sheet, a PNG")] = Path("contact_sheet.png"),
    prompt: Annotated[list[str] | None, typer.Option(help="a row; repeatable")] = None,
    seed: Annotated[int, typer.Option(help="of every picture's first noise")] = 0,
    rounds: Annotated[int, typer.Option(min=0, help="of timing after a warm-up; 0 leaves the timing out")] = 5,
    threads: Annotated[int, typer.Option(help="CPU threads, 0 for all")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="write the numbers there")] = None,
) -> None:
    """Draw large only, stitched, small only and the region for some prompts, and measure the speedup."""
    prompts, console = prompt or PROMPTS, Console(highlight=False, soft_wrap=True)
    with Session.open(bundle, threads=threads) as session, progress_bar(console) as progress:
        manifest, schedules = session.manifest, schedules_for(session.manifest)
        columns = draw_columns(session, schedules, prompts, seed, progress)
        times = loop_seconds(session, schedules, prompts[0], rounds, progress) if rounds else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(columns, prompts).save(out)
    if times:
        speeds = speeds_from_times(manifest, schedules, times)
        print_speeds(console, speeds)
        if json_file:
            write_report(json_file, report(manifest, speeds, rounds, threads))
    console.print(f"contact sheet: {out}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except HSError as err:
        raise SystemExit(f"contact_sheet: {err}") from None
