#!/usr/bin/env python3
"""Measures schedules on the demo pair's bundle: retrieval, distance to large's own pictures, speed.

Needs the runtime, the packages `emoji` and `rich`, and the font: apt-get install fonts-noto-color-emoji
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from contact_sheet import hardware, write_report
from demo_training.corpus import Corpus, load_corpus
from demo_training.retrieval import ranks
from hsruntime import Session
from hsruntime.arithmetic import bundle_speedup
from hsruntime.presets import resolve_schedule
from hsruntime.schedule import Schedule

DEFAULT = ["large", "hybridstitch", "small"]
CONVERGED = "large:100"


@dataclass(frozen=True)
class Score:
    """One schedule over all prompts."""

    schedule: str
    predicted_speedup: float
    measured_speedup: float  # median over prompts of large's loop time over this one's
    psnr_to_large: float | None  # dB, mean over prompts, the same noise; None for large itself
    psnr_to_converged: float | None  # dB, to large at 100 steps
    top_1: float
    top_5: float


def psnr(first: np.ndarray, second: np.ndarray) -> float | None:
    """Mean over pictures (count, H, W, 3) uint8 of the peak signal-to-noise ratio in dB; None if all are equal."""
    errors = ((first.astype(np.float64) - second) ** 2).mean(axis=(1, 2, 3))
    return float((10 * np.log10(255**2 / np.maximum(errors, 1e-3))).mean()) if errors.any() else None


def run_all(
    session: Session, schedules: dict[str, Schedule], corpus: Corpus, picks: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Pictures and loop seconds of each schedule; prompt by prompt, so that what slows the machine slows all."""
    pictures: dict[str, list[np.ndarray]] = {name: [] for name in schedules}
    seconds: dict[str, list[float]] = {name: [] for name in schedules}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("prompts", total=len(picks))
        for pick in picks:
            for name, schedule in schedules.items():
                result = session.generate(corpus.captions[pick], seed=int(pick), schedule=schedule)
                pictures[name].append(result.image)
                seconds[name].append(result.loop_seconds)
            progress.advance(task)
    return {n: np.stack(p) for n, p in pictures.items()}, {n: np.array(s) for n, s in seconds.items()}


def score_all(
    session: Session,
    schedules: dict[str, Schedule],
    pictures: dict[str, np.ndarray],
    seconds: dict[str, np.ndarray],
    corpus: Corpus,
    picks: np.ndarray,
) -> list[Score]:
    """A row per schedule."""
    manifest = session.manifest
    rows = []
    for name, schedule in schedules.items():
        places = ranks(pictures[name], picks, corpus.pictures)
        steps_ratio = schedules["large"].steps / schedule.steps  # large at its own number of steps is the measure
        rows.append(
            Score(
                schedule=str(schedule),
                predicted_speedup=bundle_speedup(manifest, schedule) * steps_ratio,
                measured_speedup=median(seconds["large"] / seconds[name]),
                psnr_to_large=psnr(pictures[name], pictures["large"]),
                psnr_to_converged=psnr(pictures[name], pictures[CONVERGED]),
                top_1=float((places < 1).mean()),
                top_5=float((places < 5).mean()),
            )
        )
    return rows


def print_table(rows: list[Score], prompts: int) -> None:
    """The scores for people."""
    table = Table(
        "schedule",
        "speedup",
        "by counting",
        "PSNR to large",
        "to converged",
        "top-1",
        "top-5",
        title=f"{prompts} prompts",
    )
    for r in rows:
        distances = ("-" if d is None else f"{d:.1f}" for d in (r.psnr_to_large, r.psnr_to_converged))
        speeds = (f"{r.measured_speedup:.2f}", f"{r.predicted_speedup:.2f}")
        table.add_row(r.schedule, *speeds, *distances, f"{r.top_1:.0%}", f"{r.top_5:.0%}")
    Console().print(table)


def main(
    bundle: Annotated[Path, typer.Argument(help="the demo pair's bundle")],
    schedule: Annotated[list[str] | None, typer.Option(help="repeat; default: large, hybridstitch, small")] = None,
    prompts: Annotated[int, typer.Option(help="how many of the captions, evenly spread")] = 120,
    out: Annotated[Path | None, typer.Option("--json", help="also write the numbers here")] = None,
) -> None:
    """Measure schedules; large at its default steps and at 100 steps are always measured as references."""
    corpus = load_corpus()
    with Session.open(bundle) as session:
        steps = session.manifest.defaults.steps
        names = list(dict.fromkeys(["large", *(schedule or DEFAULT), CONVERGED]))
        schedules = {name: resolve_schedule(name, None, steps) for name in names}
        picks = np.unique(np.linspace(0, len(corpus.captions) - 1, prompts).round().astype(int))
        for each in schedules.values():  # binds every shape before anything is timed
            session.generate("warm-up", schedule=each)
        pictures, seconds = run_all(session, schedules, corpus, picks)
        rows = score_all(session, schedules, pictures, seconds, corpus, picks)
    print_table(rows, len(picks))
    if out:
        write_report(out, {"hardware": hardware(0), "prompts": len(picks), "scores": [asdict(r) for r in rows]})


if __name__ == "__main__":
    typer.run(main)
