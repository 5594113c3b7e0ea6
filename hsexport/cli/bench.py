"""`hsexport bench`."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import TimeRemainingColumn
from rich.table import Column, Table

from hsexport.cli import options
from hsexport.cli.command import FILE, bundle_argument, command, json_option
from hsexport.report import BuildReport, tables_console

if TYPE_CHECKING:
    from rich.console import Console

    from hsexport.measure.bench.bench import BenchRequest
    from hsexport.measure.bench.comparison import Comparison
    from hsexport.measure.bench.report import Report

ON_STOP = "prompts that are done are kept, the same command goes on from there"


@command()
@bundle_argument()
@click.option(
    "--schedule",
    multiple=True,
    shell_complete=options.presets,
    help="repeat it; default: all presets, large at fewer steps, regions at random and in the middle",
)
@click.option("--schedules", type=FILE, help="the same, a file of one a line")
@click.option(
    "--against",
    metavar="BUNDLE",
    type=FILE,
    multiple=True,
    help="another bundle of the pair; repeat it. Sets bundles side by side in place of schedules: size, memory, time, "
    "distance to BUNDLE's own pictures, by default with its own schedule",
)
@click.option("--prompts", default=200, help="how many, evenly spread over the list")
@click.option("--prompt-file", type=FILE, help="one a line; the demo pair brings its own")
@click.option("--judge", type=FILE, help="folder of judge.onnx, reference.npz, captions.json")
@click.option("--against-diffusers", metavar="PATH|demo", help="also time diffusers' own pipeline; needs torch")
@click.option(
    "--diffusers-every", type=click.IntRange(1), default=10, help="which prompts diffusers draws, too: every N-th"
)
@options.device
@options.threads
@click.option(
    "--out",
    type=FILE,
    default=Path("build/bench"),
    help="folder of the report; a run that was killed goes on there",
)
@click.option("--readme", type=FILE, help="also put table and plot into this file's marked block")
@json_option("print all numbers but each prompt's times")
def bench(
    bundle: Path,
    schedule: tuple[str, ...],
    schedules: Path | None,
    against_diffusers: str | None,
    out: Path,
    readme: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Measure schedules side by side: speed, distance to large's own pictures, fidelity; writes a report.

    With --against, bundles of one pair.
    """
    from hsexport.build.quiet import hush_libraries
    from hsexport.measure.bench.bench import BenchRequest
    from hsexport.measure.bench.bench import bench as run_bench
    from hsexport.measure.bench.folder import PLOT, check_folder
    from hsexport.measure.bench.page import write_report
    from hsexport.measure.bench.report import report_json
    from hsexport.measure.bench.table import check_readme, splice
    from hsexport.measure.prompts import lines_of

    check_folder(out)
    listed = lines_of(schedules, "schedule") if schedules else []
    wanted = (*schedule, *listed)
    request = BenchRequest(bundle=bundle, work=out / "work", schedules=wanted, diffusers=against_diffusers, **asked)
    if request.against:
        _refuse_beside_against({"judge": request.judge, "against-diffusers": against_diffusers, "readme": readme})
        _set_side_by_side(request, out, as_json=as_json)
        return
    if readme:
        check_readme(readme)
    # What is to be hushed would bring torch.
    hushed = hush_libraries() if against_diffusers else nullcontext()
    with BuildReport(ON_STOP, TimeRemainingColumn()) as progress, hushed:
        done = run_bench(request, progress)
        report = replace(done.report, command=_command())
        files = write_report(out, report, done.rounds)
        if readme:
            files += [readme, *splice(readme, report, (out / f"{PLOT}.png").read_bytes())]
    if as_json:
        click.echo(report_json(report.summary()).decode(), nl=False)
    else:
        _print(report, files)


def _refuse_beside_against(given: dict[str, Any]) -> None:
    """Raises click.UsageError for options that are for schedules alone."""
    for name in (name for name, value in given.items() if value):
        raise click.UsageError(f"--against goes without --{name}, which is for schedules of one bundle")


def _set_side_by_side(request: BenchRequest, out: Path, *, as_json: bool) -> None:
    from hsexport.measure.bench.against import compare
    from hsexport.measure.bench.comparison import comparison_json
    from hsexport.measure.bench.comparison_page import write_comparison

    with BuildReport(ON_STOP, TimeRemainingColumn()) as progress:
        done = compare(request, progress)
        report = replace(done.report, command=_command())
        files = write_comparison(out, report, done.rounds)
    if as_json:
        click.echo(comparison_json(report.summary()).decode(), nl=False)
    else:
        _print_comparison(report, files)


def _command() -> str:
    return shlex.join(["hsexport", *sys.argv[1:]])


def _print_comparison(report: Comparison, files: list[Path]) -> None:
    """Intervals stand below their numbers."""
    from hsexport.measure.bench.comparison import FEW_COLUMNS, headline

    console = tables_console()
    headings = [Column(c.heading, justify="right") for c in FEW_COLUMNS]
    table = Table(Column("bundle", overflow="fold", max_width=44), *headings, box=None)
    for row in report.rows:
        facts = report.bundles[row.name]
        told = f"{facts.backend}, {facts.precision}, {facts.weights}; {row.schedule}"
        table.add_row(f"{row.name}\n{told}", *(f"{c.value(row)}\n{c.interval(row)}" for c in FEW_COLUMNS))
    console.print(table)
    console.print()
    _print_told(console, headline(report), report.notes, files)


def _print(report: Report, files: list[Path]) -> None:
    from hsexport.measure.bench.report import few_columns_of, headline, rows_of

    console = tables_console()
    columns = few_columns_of(report)
    headings = [Column(c.heading, justify="right") for c in columns]
    table = Table(Column("schedule", overflow="fold", max_width=44), *headings, box=None)
    for row in rows_of(report):
        table.add_row(row.name, *(c.value(row) for c in columns))
    console.print(table)
    console.print()
    _print_told(console, headline(report), report.notes, files)


def _print_told(console: Console, headline: list[str], notes: list[str], files: list[Path]) -> None:
    for sentence in headline:
        console.print(sentence, markup=False)
    for note in notes:
        console.print(note, style="dim")
    console.print(f"wrote {', '.join(map(str, files))}", soft_wrap=True, markup=False)
