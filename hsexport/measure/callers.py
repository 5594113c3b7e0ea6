"""What callers of a bundle wait for: through the C library beside Python, and of a server under too much load."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from hsexport.measure.blocks import Measured, bundle_argument, measured_on, measurement, table
from hsexport.measure.prompts import PROMPT
from hsexport.measure.turns import column, in_turns, medians, middle_half, seconds_of, speedups
from hsruntime import Session

if TYPE_CHECKING:
    import httpx

EXAMPLE = Path(__file__).parents[2] / "scripts" / "examples" / "cpp"
FIRST_PICTURE = """
import sys
from PIL import Image
from hsruntime import Session
with Session.open(sys.argv[1]) as session:
    Image.fromarray(session.generate(sys.argv[2]).image).save(sys.argv[3])
"""
COMMAND = (sys.executable, "-m", "hsexport.cli.main")
GENERATIONS = "/v1/images/generations"
STARTS = 3
SERVED = {
    "one picture, nobody else there": "{unloaded_median:.2f} s",
    "callers, answered, sent away for want of room, anything else": "{offered}, {answered}, {shed}, {others}",
    "answered: all but the slowest hundredth took at most": "{accepted_p99:.2f} s",
    "twice a picture and the queue before it": "{bound:.2f} s, queue of {queue}",
    "sent away: all but the slowest hundredth heard so within": "{shed_p99:.2f} s",
    "killed, ready again, with its first picture drawn beforehand": "{ready:.2f} s",
    "the same without": "{ready_without_warm_up:.2f} s",
    "opening the bundle in a running Python": "{open_bundle:.2f} s",
}


class _Request(ctypes.Structure):
    """The beginning of hsr_request; the library takes a shorter struct as an older caller's."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("prompts", ctypes.POINTER(ctypes.c_char_p)),
        ("prompt_count", ctypes.c_size_t),
    )


def compare(what: str, python: Callable[[], Any], c: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Medians of rounds in turns; the ratio's quartiles are of the rounds' own ratios."""
    played = in_turns({"python": partial(seconds_of, python), "c": partial(seconds_of, c)}, rounds)
    ratios = speedups(column(played, "c"), column(played, "python"))
    low, high = middle_half(ratios)
    found = medians(played)
    ratio = {"ratio": float(np.median(ratios)), "ratio_low": low, "ratio_high": high}
    return {"what": what, "python_ms": 1000 * found["python"], "c_ms": 1000 * found["c"], **ratio, "rounds": rounds}


def built(folder: Path) -> tuple[Path, Path]:
    """The library and the example service."""
    embed = [*COMMAND, "embed", "--build", str(folder), "--cmake-dir"]
    cmake_dir = subprocess.run(embed, check=True, capture_output=True, text=True).stdout.strip()
    tree = str(folder / "service")
    configure = ["cmake", "-S", str(EXAMPLE), "-B", tree, f"-Dhsruntime_DIR={cmake_dir}"]
    for command in (configure, ["cmake", "--build", tree]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "lib" / "libhsruntime.so", Path(tree) / "service"


def per_picture(lib: ctypes.CDLL, bundle: Path, rounds: int) -> dict[str, Any]:
    """In this process, one open session each."""
    handle = ctypes.c_void_p()
    lib.hsr_last_error.restype = ctypes.c_char_p

    def check(status: int) -> None:
        if status:
            raise RuntimeError(lib.hsr_last_error().decode())

    check(lib.hsr_open(os.fsencode(bundle), None, ctypes.byref(handle)))
    request = _Request(ctypes.sizeof(_Request), (ctypes.c_char_p * 1)(PROMPT.encode()), 1)

    def make() -> None:
        result = ctypes.c_void_p()
        check(lib.hsr_generate(handle, ctypes.byref(request), ctypes.byref(result)))
        lib.hsr_result_free(result)

    with Session.open(bundle) as session:
        found = compare("a picture", partial(session.generate, PROMPT), make, rounds)
    lib.hsr_close(handle)
    return found


@measurement(
    "median of: {what} | rounds: {rounds} | Python ms: {python_ms:.0f} | C ms: {c_ms:.0f}"
    " | C over Python: {ratio:.3f} | middle half: {ratio_low:.3f} to {ratio_high:.3f}"
)
@bundle_argument
@click.option("--rounds", default=40, help="in turns, of a picture")
@click.option("--processes", default=8, help="in turns, of new processes, from nothing to a PNG")
def capi(bundle: Path, rounds: int, processes: int) -> dict[str, Any]:
    """Measure the C library beside Python; needs CMake, a C++ compiler and libpng's headers."""
    with tempfile.TemporaryDirectory() as room:
        library, service = built(Path(room))
        python = [sys.executable, "-c", FIRST_PICTURE, str(bundle), PROMPT, f"{room}/first.png"]
        c = [str(service), str(bundle), "--out", room, "--prompt", PROMPT, "--pictures", "1", "--threads", "1"]
        run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
        pictures = per_picture(ctypes.CDLL(str(library)), bundle, rounds)
        firsts = compare("first picture of a process", partial(run, python), partial(run, c), processes)
    return {"rows": [pictures, firsts]}


@contextmanager
def serving(bundle: Path, queue: int, *options: str) -> Iterator[tuple[httpx.Client, float]]:
    """A client of a new server, and the seconds it took to be ready; ended by kill -9."""
    import httpx

    start = time.perf_counter()
    command = [*COMMAND, "serve", str(bundle), "--port", "0", "--queue", str(queue), "--log-level", "error"]
    process = subprocess.Popen([*command, "--max-connections", "1000", *options], stderr=subprocess.PIPE, text=True)
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
    """(status, seconds) of callers who come after these gaps, whether or not earlier ones were answered."""
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
        one = float(np.median(alone))
        gaps = np.random.default_rng(0).exponential(one / overload, round(overload * seconds / one))
        seen = asyncio.run(flood(str(client.base_url), gaps))
    accepted, shed = ([took for status, took in seen if status == wanted] or [0.0] for wanted in (200, 429))
    answered, sent_away = (sum(status == wanted for status, _ in seen) for wanted in (200, 429))
    return {
        "unloaded_median": one,
        "unloaded_p99": float(np.percentile(alone, 99)),
        "overload": overload,
        "offered": len(seen),
        "answered": answered,
        "shed": sent_away,
        "others": len(seen) - answered - sent_away,
        "accepted_median": float(np.median(accepted)),
        "accepted_p99": float(np.percentile(accepted, 99)),
        "queue": queue,
        "bound": (2 + queue) * one,
        "shed_p99": float(np.percentile(shed, 99)),
    }


def restart(bundle: Path) -> dict[str, float]:
    """Seconds of a start after kill -9 until the first answer, in turns with opening the bundle here; medians."""

    def ready(*options: str) -> float:
        with serving(bundle, 1, *options) as (_, seconds):
            return seconds

    calls: dict[str, Callable[[], float]] = {
        "ready": ready,
        "ready_without_warm_up": partial(ready, "--no-warm-up"),
        "open_bundle": partial(seconds_of, lambda: Session.open(bundle).close()),
    }
    return medians(in_turns(calls, STARTS))


def served(report: Measured) -> str:
    """Under load, then after a kill."""
    found = report["load"] | report["restart"]
    rows = [{"what": what, "value": value.format(**found)} for what, value in SERVED.items()]
    return table("a server: {what} | measured: {value}", rows) + measured_on(report)


@measurement(served)
@bundle_argument
@click.option("--seconds", default=60.0, help="how long callers come")
@click.option("--overload", default=4.0, help="callers over capacity")
@click.option("--queue", default=4, help="pictures that may wait")
def serve(bundle: Path, seconds: float, overload: float, queue: int) -> dict[str, Any]:
    """Measure a server of its own under load and after a kill; needs the [serve] extra and httpx."""
    return {"load": load(bundle, queue, overload, seconds), "restart": restart(bundle)}
