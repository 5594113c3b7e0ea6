#!/usr/bin/env python3
"""Puts several times its capacity onto `hsexport serve`, and starts it anew after a kill -9.

The load is open: callers arrive at random, at a fixed rate, whether or not earlier ones were answered. Needs the
[serve] extra and httpx.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import httpx
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from hsexport.measure.bench.hardware import hardware
from hsexport.measure.contact_sheet import write_report
from hsruntime import Session

GENERATIONS = "/v1/images/generations"
PROMPT = "red apple"


@dataclass(frozen=True)
class Load:
    """What callers saw; times in seconds."""

    unloaded_median: float
    unloaded_p99: float
    overload: float
    """Offered over capacity, which is one picture in the unloaded median."""
    offered: int
    answered: int
    shed: int
    others: int
    """Neither 200 nor 429; there should be none."""
    accepted_median: float
    accepted_p99: float
    queue: int
    bound: float
    """Twice an unloaded picture, and as many of them as may wait before it."""
    shed_p99: float
    """How long a caller waited to hear that there is no room."""


@dataclass(frozen=True)
class Restart:
    """From a new process to its first answer, beside opening the bundle in Python; seconds, medians of three."""

    ready: float
    ready_without_warm_up: float
    open_bundle: float


@contextmanager
def serving(bundle: Path, queue: int, *options: str) -> Iterator[tuple[httpx.Client, float]]:
    """A client of a new server, and the seconds it took to be ready; ended by kill -9."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "hsexport.cli.main", "serve", str(bundle), "--port", "0", "--queue", str(queue)]
    quiet = ["--log-level", "error", "--max-connections", "1000"]
    process = subprocess.Popen([*command, *quiet, *options], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        url = next(line.split(" at ")[1].strip() for line in process.stderr if " is served at " in line)
        with httpx.Client(base_url=url, timeout=600) as client:
            client.get("/ready").raise_for_status()
            yield client, time.perf_counter() - start
    finally:
        process.kill()
        process.wait()


def timed(client: httpx.Client, seed: int) -> float:
    """Seconds of one picture."""
    start = time.perf_counter()
    client.post(GENERATIONS, json={"prompt": PROMPT, "seed": seed}).raise_for_status()
    return time.perf_counter() - start


async def flood(url: str, gaps: np.ndarray) -> list[tuple[int, float]]:
    """(status, seconds) of callers who come after these gaps."""
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=None)) as client:

        async def ask(seed: int) -> tuple[int, float]:
            start = time.perf_counter()
            response = await client.post(GENERATIONS, json={"prompt": PROMPT, "seed": seed})
            return response.status_code, time.perf_counter() - start

        callers = []
        for seed, gap in enumerate(gaps):
            await asyncio.sleep(gap)
            callers.append(asyncio.create_task(ask(seed)))
        return await asyncio.gather(*callers)


def load(bundle: Path, queue: int, overload: float, seconds: float) -> Load:
    """Unloaded pictures first, then the flood."""
    with serving(bundle, queue) as (client, _):
        alone = [timed(client, seed) for seed in range(12)][2:]
        rate = overload / median(alone)
        gaps = np.random.default_rng(0).exponential(1 / rate, round(rate * seconds))
        seen = asyncio.run(flood(str(client.base_url), gaps))
    accepted, shed = ([took for status, took in seen if status == wanted] for wanted in (200, 429))
    return Load(
        median(alone), percentile(alone), overload, len(seen), len(accepted), len(shed),
        len(seen) - len(accepted) - len(shed), median(accepted), percentile(accepted), queue,
        (2 + queue) * median(alone), percentile(shed),
    )  # fmt: skip


def percentile(seconds: list[float]) -> float:
    """The 99th."""
    return float(np.percentile(seconds, 99)) if seconds else 0.0


def restart(bundle: Path) -> Restart:
    """Starts after kill -9, interleaved with opening the bundle here."""
    warm, cold, opened = [], [], []
    for _ in range(3):
        with serving(bundle, 1) as (_, seconds):
            warm.append(seconds)
        with serving(bundle, 1, "--no-warm-up") as (_, seconds):
            cold.append(seconds)
        start = time.perf_counter()
        Session.open(bundle).close()
        opened.append(time.perf_counter() - start)
    return Restart(median(warm), median(cold), median(opened))


def main(
    bundle: Annotated[Path, typer.Argument(help="a bundle that `hsexport build` wrote")],
    seconds: Annotated[float, typer.Option(help="how long callers come")] = 60,
    overload: Annotated[float, typer.Option(help="callers over capacity")] = 4,
    queue: Annotated[int, typer.Option(help="pictures that may wait")] = 4,
    json_path: Annotated[Path | None, typer.Option("--json", help="also write the numbers here")] = None,
) -> None:
    """Measures a server of its own under load and after a kill."""
    found, again = load(bundle, queue, overload, seconds), restart(bundle)
    table = Table("", "seconds", box=None)
    rows = asdict(found) | {f"restart: {name}": value for name, value in asdict(again).items()}
    for name, value in rows.items():
        table.add_row(name.replace("_", " "), f"{value:.2f}" if isinstance(value, float) else str(value))
    Console().print(table)
    if json_path:
        write_report(json_path, {"load": asdict(found), "restart": asdict(again), "hardware": asdict(hardware(0))})


if __name__ == "__main__":
    typer.run(main)
