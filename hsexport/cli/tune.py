"""`hsexport tune`: works without torch."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import click

from hsexport.cli import options
from hsexport.cli.command import FILE, bundle_argument, command, json_option
from hsexport.report import BuildReport, tables_console


@command()
@bundle_argument("a bundle; the best schedule becomes its default")
@click.option(
    "--min-speedup", type=float, metavar="X", help="be so much faster than large alone, then as close as possible"
)
@click.option(
    "--max-distance",
    type=float,
    metavar="D",
    help="stay this close by --metric (30 dB of psnr at least, 0.1 of flip at most)",
)
@click.option("--budget-ms", type=float, metavar="MS", help="take no longer for a picture's steps, then be as close")
@click.option(
    "--metric", type=click.Choice(["psnr", "ssim", "flip", "stlpips", "lpips"]), default="psnr", help="what distance is"
)
@click.option(
    "--reference",
    type=click.Choice(["converged", "same-steps"]),
    default="converged",
    help="distance to large in 100 steps, or in the bundle's default steps",
)
@click.option("--prompts", type=click.IntRange(1), default=48, help="that the finalists are measured on")
@click.option("--prompt-file", type=FILE, help="one prompt a line; the demo pair has its own")
@click.option(
    "--large-steps", type=click.IntRange(1), help="speed 1 is large in so many steps; left out: the bundle's default"
)
@click.option("--work", type=FILE, help="measurements are kept there; left out: BUNDLE.tune")
@options.device
@options.threads
@click.option("--dry-run", is_flag=True, help="leave the bundle as it is")
@json_option("print everything for scripts")
def tune(
    bundle: Path,
    min_speedup: float | None,
    max_distance: float | None,
    budget_ms: float | None,
    metric: Any,
    work: Path | None,
    dry_run: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Find the bundle's best schedule under one constraint, by counting first and measuring what that leaves.

    Give --min-speedup, --max-distance or --budget-ms. Killed anywhere, the same command goes on where it was.
    """
    from hsexport.measure.tune.goal import goal_from
    from hsexport.measure.tune.tune import TuneRequest
    from hsexport.measure.tune.tune import tune as tune_bundle
    from hsruntime.text.tokenize import PromptCutWarning

    goal = goal_from(min_speedup, max_distance, budget_ms, metric)
    kept = work or bundle.resolve().with_name(f"{bundle.resolve().name}.tune")
    request = TuneRequest(bundle=bundle, goal=goal, work=kept, metric=metric, write=not dry_run, **asked)
    on_stop = f"what was measured is kept in {kept}, the same command goes on from there"
    with BuildReport(on_stop) as report, warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptCutWarning)  # all schedules get the same, cut or not
        outcome = tune_bundle(request, report)
    if as_json:
        from hsexport.measure.tune.tune import summary

        click.echo(json.dumps(summary(outcome, kept)))
    else:
        _print(outcome, bundle)


def _print(outcome: Any, bundle: Path) -> None:
    from hsexport.measure.tune.tune import measured_table, timings_table, unmeasured_table

    console = tables_console()
    console.print(timings_table(outcome))
    console.print()
    console.print(measured_table(outcome))
    console.print()
    console.print(unmeasured_table(outcome.found))
    console.print()
    for sentence in outcome.sentences:
        console.print(sentence, soft_wrap=True, markup=False)
    if not outcome.written:
        console.print(f"{bundle} was left as it is (--dry-run).", soft_wrap=True, markup=False)
        return
    before = f"{outcome.before.schedule}, {outcome.before.steps} steps"
    console.print(f"{bundle}: now the default; before it was first tuned: {before}.", soft_wrap=True, markup=False)
