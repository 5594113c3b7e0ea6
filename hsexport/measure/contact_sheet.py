"""A contact sheet from a bundle, and its speedup: `scripts/measure contact_sheet BUNDLE --out sheet.png`.

Needs the runtime alone: no torch.
"""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.progress import track

from hsexport.measure.blocks import PATH, Measured, bundle_argument, finish, json_option, measured_on, table
from hsexport.measure.turns import schedule_times
from hsruntime import Result, Session
from hsruntime.bundle.manifest import Manifest
from hsruntime.facts import size_text
from hsruntime.picture.picture import contact_sheet, region_overlay
from hsruntime.schedule.presets import resolve_schedule
from hsruntime.schedule.schedule import Schedule

PROMPTS = ("red apple", "fox", "violin", "birthday cake", "octopus", "red paper lantern")
COLUMNS = "loop ms: {loop_ms:.0f} | speedup: {speedup:.2f} | by counting operations: {predicted:.2f}"


def schedules_for(manifest: Manifest) -> dict[str, Schedule]:
    """The three columns' schedules: as many steps of large, as the bundle stitches by default, and of small."""
    stitched = resolve_schedule(manifest.facts.defaults.schedule, None, manifest.facts.defaults.steps)
    alone = {name: resolve_schedule(name, stitched.steps, stitched.steps) for name in ("large", "small")}
    return {"large only": alone["large"], "stitched": stitched, "small only": alone["small"]}


def draw_columns(session: Session, prompts: tuple[str, ...], seed: int) -> dict[str, list[np.ndarray]]:
    """One column of pictures per schedule, and the region that the stitched one chose."""
    schedules = schedules_for(session.manifest)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in [*schedules, "region"]}
    for prompt in track(prompts, "pictures", console=Console(stderr=True), transient=True):
        for name, schedule in schedules.items():
            result = session.generate(prompt, seed=seed, schedule=schedule)
            columns[name].append(result.image)
            if name == "stitched":
                columns["region"].append(overlay_of(result))
    return columns


def overlay_of(result: Result) -> np.ndarray:
    """The first picture with its region marked; the picture itself if the schedule has no region."""
    return result.image if result.region is None else region_overlay(result.image, result.region[0], result.grid)


def block(report: Measured) -> str:
    """Speeds of the three schedules."""
    columns = size_text(report["bundle"]["size"]) + " pixels: {name} | " + COLUMNS + " | schedule: `{schedule}`"
    rows = [{"name": name, **row} for name, row in report["schedules"].items()]
    return table(columns, rows) + measured_on(report, f"{report['bundle']['backend']}, {report['bundle']['precision']}")


@click.command()
@bundle_argument
@click.option("--out", type=PATH, default="contact_sheet.png", help="the sheet, a PNG")
@click.option("--prompt", multiple=True, default=PROMPTS, help="a row; repeatable")
@click.option("--seed", default=0, help="of every picture's first noise")
@click.option("--rounds", default=5, type=click.IntRange(0), help="of timing after a warm-up; 0 leaves it out")
@click.option("--threads", default=0, help="CPU threads, 0 for all")
@json_option
def main(
    bundle: Path, out: Path, prompt: tuple[str, ...], seed: int, rounds: int, threads: int, json_file: Path | None
) -> None:
    """Draw large only, stitched, small only and the region for some prompts, and measure the speedup."""
    with Session.open(bundle, threads=threads) as session:
        manifest = session.manifest
        columns = draw_columns(session, prompt, seed)
        out.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(columns, list(prompt)).save(out)
        with Console(stderr=True).status(f"timing {rounds} rounds"):
            times = schedule_times(session, schedules_for(manifest), rounds) if rounds else []
    if times:
        finish(
            block,
            json_file,
            threads,
            bundle={"backend": manifest.backend, "precision": manifest.precision, "size": manifest.facts.sizes.default},
            guidance_scale=manifest.facts.defaults.guidance_scale,
            rounds=rounds,
            schedules={time.name: msgspec.to_builtins(time) for time in times},
        )
    click.echo(f"contact sheet: {out}")
