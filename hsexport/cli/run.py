"""`hsexport run`: works without torch."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import structs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hsengines.cores import usable_cores
from hsengines.errors import HSError
from hsexport.cli.command import FILE, bundle_argument, command, json_option
from hsexport.cli.options import picture_options, session_options
from hsexport.report import PlainConsole

if TYPE_CHECKING:
    from hsruntime.options import PictureOptions, SessionOptions


@command()
@bundle_argument()
@click.option("--prompt", multiple=True, required=True, help="repeat it for several pictures at once")
@click.option(
    "--out",
    type=FILE,
    default=Path("picture.png"),
    help="PNG; several pictures get -0, -1, ... before the suffix",
)
@picture_options("lora")
@click.option("--region", type=FILE, help="also write the picture with its region marked")
@session_options(
    *("device", "threads", "graphs", "memory_cap_mb", "vae_tile", "text_on_demand", "kernel_cache", "identity"),
    "adapters",
)
@json_option("print files, schedule and times for scripts")
def run(
    bundle: Path,
    prompt: tuple[str, ...],
    out: Path,
    picture: PictureOptions,
    region: Path | None,
    session: SessionOptions,
    as_json: bool,
) -> None:
    """Make pictures from a bundle."""
    from hsexport.deploy.pictures import check_writable, save_pictures
    from hsruntime.bundle.reader import open_bundle
    from hsruntime.session import Session

    check_writable(out, *([region] if region else []))
    if region and region.resolve() == out.resolve():
        raise HSError(f"--out and --region are both {out}", "name two files")
    console = PlainConsole(stderr=True, highlight=False)
    found = open_bundle(bundle)
    with (
        warnings.catch_warnings(record=True, action="always") as caught,
        Session(found, session) as opened,
        _progress(console) as progress,
    ):
        asked = structs.replace(picture, prompt=list(prompt))
        request = asked.completed(opened.manifest, callback=_step_shower(progress))
        if region and not request.schedule.has_region:
            raise HSError("--region: this schedule chooses no region", "use one with a hybrid segment")
        result = opened.run(request)
    told = [str(w.message) for w in caught]
    for warning in told:
        console.print(f"warning: {warning}", soft_wrap=True, markup=False)
    files = [str(file) for file in save_pictures(result, request, out, region)]
    if as_json:
        where = {"device": opened.device_name, "threads": session.threads or usable_cores()}
        click.echo(json.dumps(_summary(result, files, told) | where))
    else:
        console.print(f"{', '.join(files)}: {result.schedule}, {result.seconds:.2f} s", soft_wrap=True, markup=False)


def _progress(console: Console) -> Progress:
    text = TextColumn("{task.description:<6}")
    return Progress(
        text,
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _step_shower(progress: Progress) -> Callable[[Any], None]:
    task = progress.add_task("", total=None)

    def show(now: Any) -> None:
        progress.update(task, description=now.mode, completed=now.step, total=now.steps)

    return show


def _summary(result: Any, files: list[str], told: list[str]) -> dict[str, Any]:
    segments = [{"mode": s.mode, "steps": s.steps, "seconds": s.seconds} for s in result.segments]
    return {
        "files": files,
        "schedule": str(result.schedule),
        "seconds": result.seconds,
        "loop_seconds": result.loop_seconds,
        "segments": segments,
        "adapters": list(result.adapters),
        "warnings": told,
    }
