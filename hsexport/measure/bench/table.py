"""The table of a README: Markdown, and the marked block it is put into."""

from __future__ import annotations

import os
import re
from pathlib import Path

from hsengines.errors import HSError
from hsexport.measure.bench.columns import few_columns_of, rows_of
from hsexport.measure.bench.report import Report, report_json
from hsexport.measure.bench.scores import Score

BLOCK = re.compile(
    r"<!-- numbers: [^\n]*hsexport bench [^\n]*? -> (?P<file>\S+) -->\n(?P<body>.*?)<!-- end of numbers -->", re.S
)
WITH_INTERVAL = ("speedup", "named", "Frechet", "over diffusers")


def markdown(report: Report) -> str:
    """The table, and below it what it was measured on."""
    columns = few_columns_of(report)
    lines = [
        f"| schedule | {' | '.join(c.heading for c in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in rows_of(report):
        cells = [_with_interval(c.value(row), c.interval(row) if c.title in WITH_INTERVAL else "") for c in columns]
        lines.append(f"| {_named(row)} | {' | '.join(cells)} |")
    machine, bundle = report.hardware, report.bundle
    story = (
        f"{report.prompts} prompts, the same noise for all; in brackets {report.confidence_percent} % intervals. "
        f"Hardware: {machine.processor}, {machine.threads} threads; {bundle.backend}, {bundle.precision}."
    )
    return "\n".join([*lines, "", story]) + "\n"


def splice(readme: Path, report: Report, plot: bytes) -> list[Path]:
    """Puts the table and the plot into the README's block for `hsexport bench`, the numbers into the file it names.

    The plot, a PNG, lies beside the numbers under the same name. Returns both files. Raises HSError where there is no
    such block.
    """
    text, found = check_readme(readme)
    numbers = readme.parent / found["file"]
    picture = numbers.with_suffix(".png")
    shown = f"![Speedup against distance]({Path(found['file']).with_suffix('.png').as_posix()})"
    opening = f"<!-- numbers: {report.command} -> {found['file']} -->"
    parts = [opening, markdown(report), shown, "<!-- end of numbers -->"]
    numbers.parent.mkdir(parents=True, exist_ok=True)
    replace_file(numbers, report_json(report.summary()))
    replace_file(picture, plot)
    replace_file(readme, (text[: found.start()] + "\n\n".join(p.strip() for p in parts) + text[found.end() :]).encode())
    return [numbers, picture]


def check_readme(readme: Path) -> tuple[str, re.Match[str]]:
    """The text and its block for `hsexport bench`. Raises HSError where there is none."""
    text = readme.read_text(encoding="utf-8")
    found = BLOCK.search(text)
    if not found:
        raise HSError(
            f"{readme} has no block for the numbers of hsexport bench",
            "put two lines there: <!-- numbers: hsexport bench BUNDLE -> docs/bench.json --> <!-- end of numbers -->",
        )
    return text, found


def replace_file(file: Path, data: bytes) -> None:
    """Writes the file whole or not at all."""
    part = file.with_name(f"{file.name}.part-{os.getpid()}")
    try:
        part.write_bytes(data)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _named(row: Score) -> str:
    return f"`{row.name}`" if row.name == row.schedule else f"{row.name}: `{row.schedule}`"


def _with_interval(value: str, interval: str) -> str:
    return f"{value} ({interval})" if interval else value
