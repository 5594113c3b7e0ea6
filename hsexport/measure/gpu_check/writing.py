"""The report's files."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hsexport.measure.gpu_check.results import Report
from hsexport.measure.gpu_check.tables import sheets_of


def write_files(report: Report, out: Path) -> tuple[Path, Path]:
    """Writes `gpu_check.json` and `gpu_check.md` into `out`; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    numbers, words = out / "gpu_check.json", out / "gpu_check.md"
    numbers.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    words.write_text(markdown_of(report), encoding="utf-8")
    return numbers, words


def markdown_of(report: Report) -> str:
    """What it was measured on, then every table."""
    machine = ", ".join(f"{name} {value}" for name, value in report.hardware.items())
    plan = ", ".join(f"{name} {value}" for name, value in report.plan.items())
    return "\n".join([f"{report.date}: {machine}.", "", f"{plan}.", "", *(s.markdown() for s in sheets_of(report))])
