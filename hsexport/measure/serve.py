"""Several times its capacity on `hsexport serve`, and its start after a kill -9.

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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from hsexport.measure.blocks import Measured, bundle_argument, finish, json_option, measured_on, table
from hsexport.measure.prompts import PROMPT
from hsexport.measure.turns import column, in_turns, seconds_of
from hsruntime import Session

if TYPE_CHECKING:
    import httpx

GENERATIONS = "/v1/images/generations"
STARTS = 3
ROWS = {
    "one picture, nobody else there": "{unloaded_median:.2f} s",
    "callers, answered, sent away for want of room, anything else": "{offered}, {answered}, {shed}, {others}",
    "answered: all but the slowest hundredth took at most": "{accepted_p99:.2f} s",
    "twice a picture and the queue before it": "{bound:.2f} s, queue of {queue}",
    "sent away: all but the slowest hundredth heard so within": "{shed_p99:.2f} s",
    "killed, ready again, with its first picture drawn beforehand and without": (
        "{ready:.2f}, {ready_without_warm_up:.2f} s"
    ),
    "opening the bundle in a running Python": "{open_bundle:.2f} s",
}


@contextmanager
def serving(bundle: Path, queue: int, *options: str) -> Iterator[tuple[httpx.Client, float]]:
    """A client of a new server, and the seconds it took to be ready; ended by kill -9."""
    import httpx

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


async def flood(url: str, gaps: np.ndarray) -> list[tuple[int, float]]:
    """(status, seconds) of callers who come after these gaps."""
    import httpx

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


def load(bundle: Path, queue: int, overload: float, seconds: float) -> dict[str, Any]:
    """What callers saw, in seconds: unloaded pictures first, then the flood; there should be no `others`.

    `bound` is twice an unloaded picture, and as many of them as may wait before it.
    """
    with serving(bundle, queue) as (client, _):

        def ask(seed: int) -> None:
            client.post(GENERATIONS, json={"prompt": PROMPT, "seed": seed}).raise_for_status()

        alone = [seconds_of(partial(ask, seed)) for seed in range(12)][2:]
        rate = overload / np.median(alone)
        gaps = np.random.default_rng(0).exponential(1 / rate, round(rate * seconds))
        seen = asyncio.run(flood(str(client.base_url), gaps))
    accepted, shed = ([took for status, took in seen if status == wanted] for wanted in (200, 429))
    counts = {"offered": len(seen), "answered": len(accepted), "shed": len(shed)}
    return {
        "unloaded_median": percentile(alone, 50),
        "unloaded_p99": percentile(alone, 99),
        "overload": overload,
        **counts,
        "others": len(seen) - len(accepted) - len(shed),
        "accepted_median": percentile(accepted, 50),
        "accepted_p99": percentile(accepted, 99),
        "queue": queue,
        "bound": (2 + queue) * percentile(alone, 50),
        "shed_p99": percentile(shed, 99),
    }


def percentile(seconds: list[float], percent: int) -> float:
    """Of callers' times; 0 where there was none."""
    return float(np.percentile(seconds, percent)) if seconds else 0.0


def restart(bundle: Path) -> dict[str, float]:
    """Seconds of a start after kill -9 until the first answer, in turns with opening the bundle here; medians."""

    def ready(*options: str) -> float:
        with serving(bundle, 1, *options) as (_, seconds):
            return seconds

    calls = {
        "ready": ready,
        "ready_without_warm_up": lambda: ready("--no-warm-up"),
        "open_bundle": lambda: seconds_of(lambda: Session.open(bundle).close()),
    }
    played = in_turns(calls, STARTS)
    return {name: float(np.median(column(played, name))) for name in calls}


def block(report: Measured) -> str:
    """Under load, then after a kill."""
    found = report["load"] | report["restart"]
    rows = [{"what": what, "value": value.format(**found)} for what, value in ROWS.items()]
    return table("under load: {what} | measured: {value}", rows) + measured_on(report)


@click.command()
@bundle_argument
@click.option("--seconds", default=60.0, help="how long callers come")
@click.option("--overload", default=4.0, help="callers over capacity")
@click.option("--queue", default=4, help="pictures that may wait")
@json_option
def main(bundle: Path, seconds: float, overload: float, queue: int, json_file: Path | None) -> None:
    """Measure a server of its own under load and after a kill."""
    finish(block, json_file, load=load(bundle, queue, overload, seconds), restart=restart(bundle))
