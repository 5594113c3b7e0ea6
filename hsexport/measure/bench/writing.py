"""A report's files, each written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from hsengines.files import replace_file
from hsexport.measure.bench import pareto
from hsexport.measure.bench.page import page
from hsexport.measure.bench.report import Report, report_json
from hsexport.measure.bench.rounds import Round
from hsexport.measure.bench.sheet import sheet
from hsexport.measure.bench.table import markdown

PLOT, SHEET, PAGE = "pareto", "sheet.png", "report.html"


def write_report(out: Path, report: Report, rounds: Sequence[Round]) -> list[Path]:
    """Writes numbers, table, plot, contact sheet and page into the folder; returns the files, the page last."""
    out.mkdir(parents=True, exist_ok=True)
    drawn = _plots(out, report)
    pictures = sheet(report, rounds)
    stream = io.BytesIO()
    pictures.save(stream, format="PNG", optimize=True)
    files = {
        "report.json": report_json(report),
        "table.md": markdown(report).encode(),
        **drawn,
        SHEET: stream.getvalue(),
        PAGE: page(report, drawn[f"{PLOT}.svg"].decode(), pictures).encode(),
    }
    for name, data in files.items():
        replace_file(out / name, data)
    return [out / name for name in files]


def _plots(out: Path, report: Report) -> dict[str, bytes]:
    with TemporaryDirectory(dir=out) as folder:
        files = [Path(folder) / f"{PLOT}{suffix}" for suffix in (".svg", ".png")]
        pareto.draw(report, files)
        return {file.name: file.read_bytes() for file in files}
