"""What is checked, and everything that is measured as the JSON file and the tables hold it.

Times are medians; a number that could not be had is None, and so is one in JSON that is not finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from hsengines.files import replace_file
from hsexport.measure.blocks import table

Row = dict[str, Any]  # of a table


class Target(Struct, frozen=True):
    """One bundle to build and measure."""

    backend: str
    precision: str

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"


class Asked(Struct, frozen=True):
    """The same for every target."""

    large: str
    small: str
    out: Path
    cache: Path
    size: tuple[int, int] | None = None  # in pixels; None is what large was trained at
    max_batch: int = 1
    steps: int = 28
    ratio: float = 0.3
    rounds: int = 5
    threads: int = 0  # of the CPU, 0 for all

    @property
    def region(self) -> str:
        """The region policy in a schedule's short form."""
        return f"signal=gap,ratio={self.ratio}"


class BackendState(Struct):
    """Whether a backend works here, and if not, why."""

    backend: str
    version: str
    why_not: str


class Problem(Struct):
    """A part of the check that ended early, in one line."""

    part: str
    message: str


class TargetResult(Struct):
    """One bundle, as far as it came; what stands in each row, hsexport.measure.gpu_check.checks says."""

    backend: str
    precision: str
    device: str = ""
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    build: Row | None = None
    parity: list[Row] = field(default_factory=list)
    equality: list[Row] = field(default_factory=list)
    steps: list[Row] = field(default_factory=list)
    gaps: list[Row] = field(default_factory=list)
    outside: Row | None = None
    schedules: list[Row] = field(default_factory=list)
    memory: Row | None = None
    first: Row | None = None


class TorchTime(Struct):
    """Large alone in torch, eager or compiled: whole pictures over the same steps."""

    way: str
    precision: str
    device: str
    seconds: float | None = None
    problem: str = ""


class Report(Struct):
    """All of it."""

    date: str
    hardware: dict[str, Any]
    plan: dict[str, Any]
    backends: list[BackendState]
    targets: list[TargetResult] = field(default_factory=list)
    torch: list[TorchTime] = field(default_factory=list)


BACKENDS = "backend: {backend} | library: {version} | works here: {works}"
TARGET_TABLES = {
    "build": (
        "build",
        "seconds: {seconds:.0f} | MB: {size_mb:.1f} | made: {made} | kept: {kept} | builder: {builder} | for: {target}",
    ),
    "parity": (
        "parity",
        "engine: {engine} | precision: {precision} | MB: {size_mb:.1f} | beside: {reference}"
        " | largest error: {max_relative:.1e} | tolerance: {tolerance:.0e} | passed: {passed}",
    ),
    "with CUDA graphs and without": (
        "equality",
        "schedule: {schedule} | same latents: {latents_equal} | same picture: {pictures_equal}"
        " | largest difference: {max_difference:.1e}",
    ),
    "one step": (
        "steps",
        "step: {step} | loop ms: {loop_ms:.2f} | without graphs: {plain_ms:.2f} | device: {device_ms:.2f}"
        " | over full: {device_over_full:.3f} | by arithmetic: {flops_over_full:.3f}"
        " | measured over that: {over_arithmetic:.2f}",
    ),
    "share of the loop outside the engines": (
        "gaps",
        "step: {step} | with graphs: {graphs:.2%} | without: {plain:.2%}",
    ),
    "whole schedules": (
        "schedules",
        "schedule: {name} | picture ms: {picture_ms:.0f} | loop ms: {loop_ms:.0f} | speedup: {speedup:.2f}"
        " | by counting: {predicted:.2f} | steps: {schedule}",
    ),
    "peak memory": (
        "memory",
        "on: {device} | device MiB: {total_mb:.0f} | used MiB: {used_mb:.0f} | tensors MiB: {tensors_mb:.0f}",
    ),
    "to the first picture, seconds": (
        "first",
        "from process start: {process_s:.2f} | its peak MiB: {process_mib:.0f} | open: {open_s:.2f}"
        " | warm-up: {warm_up_s:.2f} | first after it: {first_s:.2f} | next: {next_s:.2f}",
    ),
}
"""Title, the part of a target's result that it shows, and its columns."""
TORCH = "torch: {way} | precision: {precision} | on: {device} | seconds: {seconds:.2f} | ours, times as fast: {beside}"
PROBLEMS = "target: {target} | part: {part} | what was said: {message}"


def write_files(report: Report, out: Path) -> tuple[Path, Path]:
    """Writes `gpu_check.json` and `gpu_check.md` into `out`; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    numbers, words = out / "gpu_check.json", out / "gpu_check.md"
    replace_file(numbers, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    replace_file(words, block(msgspec.to_builtins(report)).encode())
    return numbers, words


def block(report: dict[str, Any]) -> str:
    """What it was measured on, then every table that has something to say, in the order of the check."""
    machine, plan = (", ".join(f"{name} {v}" for name, v in report[part].items()) for part in ("hardware", "plan"))
    tables = (f"**{title}**\n\n{table(columns, rows)}" for title, columns, rows in _tables(report) if rows)
    return "\n".join([f"{report['date']}: {machine}.\n", f"{plan}.\n", *tables])


def _tables(report: dict[str, Any]) -> Iterator[tuple[str, str, list[Any]]]:
    states = report["backends"]
    yield "Backends", BACKENDS, [s | {"works": f"no: {s['why_not']}" if s["why_not"] else "yes"} for s in states]
    problems = []
    for result in report["targets"]:
        name = f"{result['backend']} {result['precision']}"
        result["gaps"] += [result["outside"]] if result["outside"] else []
        for title, (part, columns) in TARGET_TABLES.items():
            found = result[part]
            yield f"{name}: {title}", columns, found if isinstance(found, list) else [found] if found else []
        problems += [{"target": name, "part": "note", "message": note} for note in result["notes"]]
        problems += [{"target": name, **problem} for problem in result["problems"]]
    yield "Large alone in torch", TORCH, [row | {"beside": _beside(report, row)} for row in report["torch"]]
    yield "What did not work", PROBLEMS, problems


def _beside(report: dict[str, Any], torch: dict[str, Any]) -> str:
    """How much faster each of our schedules of the same precision is; what torch said where it did not run."""
    if torch["seconds"] is None:
        return torch["problem"]
    return "; ".join(
        f"{result['backend']} {row['name']} {1000 * torch['seconds'] / row['picture_ms']:.2f}"
        for result in report["targets"]
        if result["precision"] == torch["precision"]
        for row in result["schedules"]
        if row["name"] in ("large", "hybridstitch")
    )
