"""A report's table, as it stands in its folder and in a document's block."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import msgspec

from hsengines.errors import HSError
from hsengines.files import replace_file
from hsexport.measure.bench import comparison
from hsexport.measure.bench.report import Column, Report, few_columns_of, report_json, rows_of
from hsexport.measure.bench.scores import Score
from hsexport.measure.blocks import BLOCK, Measured, grid, measured_on, numbers_of, rendered
from hsruntime.schedule.presets import schedule_from_text
from hsruntime.schedule.schedule import ScheduleError

WITH_INTERVAL = ("speedup", "named", "Frechet", "over diffusers")


def block(report: Measured) -> str:
    """The table of a report's JSON, of schedules without what this runtime no longer runs, or of bundles."""
    if "bundles" in report:
        return comparison.markdown(msgspec.convert(report, comparison.Comparison))
    read = msgspec.convert(report, Report)
    return markdown(replace(read, scores=[s for s in read.scores if _is_known(s)]))


def markdown(report: Report) -> str:
    """The table, and below it what it was measured on."""
    columns = few_columns_of(report)
    headings = ["schedule", *(c.heading for c in columns)]
    rows = [[_named(row), *(_cell(column, row) for column in columns)] for row in rows_of(report)]
    told = f"{report.prompts} prompts, the same noise for all; in brackets {report.confidence_percent} % intervals"
    bundle = f"{report.bundle.backend}, {report.bundle.precision}"
    return grid(headings, rows) + measured_on({"hardware": asdict(report.hardware)}, bundle, told)


def splice(readme: Path, report: Report, plot: bytes) -> list[Path]:
    """Puts the table and the plot into the README's block for `hsexport bench`, the numbers into the file it names.

    The plot, a PNG, lies beside the numbers under the same name. Returns both files. Raises HSError where there is no
    such block.
    """
    text, file = check_readme(readme)
    numbers = numbers_of(readme, file)
    replace_file(numbers, report_json(report.summary()))
    replace_file(numbers.with_suffix(".png"), plot)
    found = next(found for found in BLOCK.finditer(text) if found["file"] == file)
    text = text[: found.start("command")] + report.command + text[found.end("command") :]
    replace_file(readme, rendered(readme, text, only=file))
    return [numbers, numbers.with_suffix(".png")]


def check_readme(readme: Path) -> tuple[str, str]:
    """The text and the file of numbers of its block for `hsexport bench`. Raises HSError where there is none."""
    text = readme.read_text(encoding="utf-8")
    file = next((found["file"] for found in BLOCK.finditer(text) if "hsexport bench " in found["command"]), None)
    if not file:
        raise HSError(
            f"{readme} has no block for the numbers of hsexport bench",
            "put two lines there: <!-- numbers: hsexport bench BUNDLE -> docs/bench.json --> <!-- end of numbers -->",
        )
    return text, file


def _is_known(row: Score) -> bool:
    try:
        return bool(schedule_from_text(row.schedule))
    except ScheduleError:
        return False


def _named(row: Score) -> str:
    return f"`{row.name}`" if ":" in row.name or row.name == row.schedule else f"{row.name}: `{row.schedule}`"


def _cell(column: Column, row: Score) -> str:
    interval = column.interval(row) if column.title in WITH_INTERVAL else ""
    return f"{column.value(row)} ({interval})" if interval else column.value(row)
