"""The report as tables of words, for a terminal and for a README."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from hsexport.measure.gpu_check.results import Report, TargetResult, TorchTime


@dataclass(frozen=True)
class Sheet:
    """One table; a sheet without rows is left out."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def rich(self) -> Table:
        """For a terminal."""
        table = Table(*self.columns, title=self.title, title_justify="left")
        for row in self.rows:
            table.add_row(*map(escape, row))  # or [gpu] would be taken for a colour
        return table

    def markdown(self) -> str:
        """For a README."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines) + "\n"


def sheets_of(report: Report) -> list[Sheet]:
    """Every table that has something to say, in the order of the check."""
    sheets = [_backends(report)]
    for result in report.targets:
        sheets += _target_sheets(result)
    sheets += [_torch(report), _problems(report)]
    return [sheet for sheet in sheets if sheet.rows]


def _backends(report: Report) -> Sheet:
    rows = [(s.backend, s.version or "-", "no: " + s.why_not if s.why_not else "yes") for s in report.backends]
    return Sheet("Backends", ("backend", "library", "works here"), rows)


def _target_sheets(r: TargetResult) -> Iterator[Sheet]:
    name = f"{r.backend} {r.precision}"
    builds = [r.build] if r.build else []
    columns: tuple[str, ...] = ("seconds", "MB", "made", "kept", "builder", "for")
    rows = [(f"{b.seconds:.0f}", f"{b.size_mb:.1f}", str(b.made), str(b.kept), b.builder, b.target) for b in builds]
    yield Sheet(f"{name}: build", columns, rows)
    columns = ("engine", "precision", "MB", "beside", "largest error", "tolerance", "passed")
    yield Sheet(
        f"{name}: parity",
        columns,
        [
            (
                e.engine,
                e.precision,
                f"{e.size_mb:.1f}",
                e.reference,
                _error(e.max_relative),
                f"{e.tolerance:.0e}",
                _yes(e.passed),
            )
            for e in r.parity
        ],
    )
    columns = ("schedule", "same latents", "same picture", "largest difference")
    yield Sheet(
        f"{name}: with CUDA graphs and without",
        columns,
        [(e.schedule, _yes(e.latents_equal), _yes(e.pictures_equal), _error(e.max_difference)) for e in r.equality],
    )
    yield from _time_sheets(name, r)
    columns = ("on", "device MiB", "used MiB", "tensors MiB")
    memories = [r.memory] if r.memory else []
    yield Sheet(
        f"{name}: peak memory",
        columns,
        [(m.device, _mib(m.total_mb), _mib(m.used_mb), _mib(m.tensors_mb)) for m in memories],
    )
    columns = ("from process start", "its peak MiB", "open", "warm-up", "first after it", "next")
    firsts = [r.first] if r.first else []
    seconds = [
        (f"{f.process_s:.2f}", _mib(f.process_mib), *(f"{s:.2f}" for s in (f.open_s, f.warm_up_s, f.first_s, f.next_s)))
        for f in firsts
    ]
    yield Sheet(f"{name}: to the first picture, seconds", columns, seconds)


def _time_sheets(name: str, r: TargetResult) -> Iterator[Sheet]:
    columns: tuple[str, ...] = (
        "step",
        "loop ms",
        "without graphs",
        "device",
        "over full",
        "by arithmetic",
        "measured over that",
    )
    yield Sheet(
        f"{name}: one step",
        columns,
        [
            (
                s.step,
                *(f"{ms:.2f}" if ms is not None else "-" for ms in (s.loop_ms, s.plain_ms, s.device_ms)),
                *(f"{ratio:.3f}" for ratio in (s.device_over_full, s.flops_over_full)),
                f"{s.over_arithmetic:.2f}",
            )
            for s in r.steps
        ],
    )
    rows = [(g.step, f"{g.graphs:.1%}", f"{g.plain:.1%}") for g in r.gaps]
    if r.outside:
        rows.append(("stitched, engines taken out", f"{r.outside.share:.2%}", "-"))
    yield Sheet(f"{name}: share of the loop outside the engines", ("step", "with graphs", "without"), rows)
    columns = ("schedule", "picture s", "loop s", "speedup", "predicted", "steps")
    yield Sheet(
        f"{name}: whole schedules",
        columns,
        [
            (s.name, f"{s.picture_s:.2f}", f"{s.loop_s:.2f}", f"{s.speedup:.2f}", f"{s.predicted:.2f}", s.schedule)
            for s in r.schedules
        ],
    )


def _torch(report: Report) -> Sheet:
    """Torch's large alone, and how much faster each of our schedules of the same precision is."""
    columns = ("torch", "precision", "on", "covers", "seconds", "beside it: ours, times as fast")
    rows = [
        (
            t.way,
            t.precision,
            t.device,
            t.covers or "-",
            t.problem if t.seconds is None else f"{t.seconds:.2f}",
            _beside(report, t),
        )
        for t in report.torch
    ]
    return Sheet("Large alone in torch", columns, rows)


def _beside(report: Report, torch: TorchTime) -> str:
    if torch.seconds is None:
        return "-"
    whole = torch.covers == "whole pictures"
    return "; ".join(
        f"{result.backend} {s.name} {torch.seconds / (s.picture_s if whole else s.loop_s):.2f}"
        for result in report.targets
        if result.precision == torch.precision
        for s in result.schedules
        if s.name in ("large", "hybridstitch")
    )


def _problems(report: Report) -> Sheet:
    rows = []
    for r in report.targets:
        rows += [(f"{r.backend} {r.precision}", "note", note) for note in r.notes]
        rows += [(f"{r.backend} {r.precision}", p.part, p.message) for p in r.problems]
    return Sheet("What did not work", ("target", "part", "what was said"), rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _yes(value: bool) -> str:
    return "yes" if value else "NO"


def _error(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1e}"


def _mib(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
