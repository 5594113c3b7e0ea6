"""`hsexport run`: works without torch."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hsengines.errors import HSError
from hsexport import __version__
from hsexport.cli import options
from hsexport.cli.command import FILE, bundle_argument, command, json_option


@command()
@bundle_argument()
@click.option("--prompt", multiple=True, required=True, help="repeat it for several pictures at once")
@click.option(
    "--out",
    type=FILE,
    default=Path("picture.png"),
    help="PNG; several pictures get -0, -1, ... before the suffix",
)
@click.option("--negative-prompt", default="", show_default=False, help="what the picture should not be")
@click.option("--seed", default=0, help="picture i uses seed + i")
@options.schedule
@options.steps
@options.guidance_scale
@options.size
@click.option("--region", type=FILE, help="also write the picture with its region marked")
@options.threads
@options.graphs
@options.memory_cap
@options.vae_tile
@click.option("--text-on-demand", is_flag=True, help="close the text encoders before the loop, to save memory")
@json_option("print files, schedule and times for scripts")
def run(
    bundle: Path,
    prompt: tuple[str, ...],
    out: Path,
    negative_prompt: str,
    seed: int,
    schedule: str | None,
    steps: int | None,
    guidance_scale: float | None,
    size: tuple[int, int] | None,
    region: Path | None,
    threads: int,
    graphs: bool,
    memory_cap: float | None,
    vae_tile: int,
    text_on_demand: bool,
    as_json: bool,
) -> None:
    """Make pictures from a bundle."""
    from hsruntime.session import Session

    width, height = size or (None, None)
    prompts = list(prompt)
    _check_writable(out, *([region] if region else []))
    if region and region.resolve() == out.resolve():
        raise HSError(f"--out and --region are both {out}", "name two files")
    console = Console(stderr=True, highlight=False)
    opened = Session.open(
        bundle,
        threads=threads,
        graphs=graphs,
        memory_cap_mb=memory_cap,
        vae_tile=vae_tile or None,
        text_on_demand=text_on_demand,
    )
    with opened as session, _progress(console) as progress:
        if region and not _asked(session, schedule, steps).has_region:
            raise HSError("--region: this schedule chooses no region", "use one with a hybrid segment")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = session.generate(
                prompts,
                negative_prompt=negative_prompt,
                seed=seed,
                width=width,
                height=height,
                steps=steps,
                guidance_scale=guidance_scale,
                schedule=schedule,
                callback=_step_shower(progress),
            )
        guidance = session.manifest.facts.defaults.guidance_scale if guidance_scale is None else guidance_scale
    cuts = [str(w.message) for w in caught]
    for cut in cuts:
        console.print(f"warning: {cut}", soft_wrap=True, markup=False)
    recipe = {"negative_prompt": negative_prompt, "schedule": str(result.schedule), "guidance_scale": f"{guidance:g}"}
    files = _save(result, prompts, seed, recipe, out, region)
    if as_json:
        click.echo(json.dumps(_summary(result, files, cuts)))
    else:
        console.print(f"{', '.join(files)}: {result.schedule}, {result.seconds:.2f} s", soft_wrap=True, markup=False)


def _asked(session: Any, schedule: str | None, steps: int | None) -> Any:
    from hsruntime.schedule.presets import resolve_schedule

    defaults = session.manifest.facts.defaults
    return resolve_schedule(schedule or defaults.schedule, steps, defaults.steps)


def _check_writable(*files: Path) -> None:
    """Before the work, not after it."""
    for file in files:
        if not file.parent.is_dir():
            raise HSError(f"{file.parent} is not a directory", "make it first, or write elsewhere")
        if file.is_dir():
            raise HSError(f"{file} is a directory", "name a file in it")
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise HSError(f"{file} cannot be written", "write elsewhere")


def _progress(console: Console) -> Progress:
    text = TextColumn("{task.description:<6}")
    return Progress(text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True)


def _step_shower(progress: Progress) -> Callable[[Any], None]:
    task = progress.add_task("", total=None)

    def show(now: Any) -> None:
        progress.update(task, description=now.mode, completed=now.step, total=now.steps)

    return show


def _save(
    result: Any, prompts: list[str], seed: int, recipe: dict[str, str], out: Path, region: Path | None
) -> list[str]:
    from hsruntime.picture.picture import region_overlay, save_png

    written = []
    for i, (prompt, picture) in enumerate(zip(prompts, result.images, strict=True)):
        story = {"prompt": prompt, "seed": str(seed + i), **recipe, "software": f"hsexport {__version__}"}
        save_png(numbered(out, i, len(prompts)), picture, story)
        written.append(str(numbered(out, i, len(prompts))))
        if region:
            overlay = region_overlay(picture, result.region[i], result.grid)
            save_png(numbered(region, i, len(prompts)), overlay, story)
            written.append(str(numbered(region, i, len(prompts))))
    return written


def numbered(path: Path, index: int, count: int) -> Path:
    """`picture.png` as `picture-0.png` if there are several."""
    return path if count == 1 else path.with_name(f"{path.stem}-{index}{path.suffix}")


def _summary(result: Any, files: list[str], cuts: list[str]) -> dict[str, Any]:
    segments = [{"mode": s.mode, "steps": s.steps, "seconds": s.seconds} for s in result.segments]
    return {
        "files": files,
        "schedule": str(result.schedule),
        "seconds": result.seconds,
        "loop_seconds": result.loop_seconds,
        "segments": segments,
        "warnings": cuts,
    }
