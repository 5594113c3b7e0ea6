#!/usr/bin/env python3
"""What the C library costs over calling Python: per picture in one process, and to the first picture of a new one.

Builds library and example; needs CMake, a C++ compiler and libpng's headers.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hsexport.measure.bench.hardware import hardware
from hsexport.measure.contact_sheet import write_report
from hsruntime import Session

PROMPT = "red apple"
EXAMPLE = Path(__file__).parent / "examples" / "cpp"
FIRST_PICTURE = """
import sys
from PIL import Image
from hsruntime import Session
with Session.open(sys.argv[1]) as session:
    Image.fromarray(session.generate(sys.argv[2]).image).save(sys.argv[3])
"""


class _Request(ctypes.Structure):
    """The beginning of hsr_request; the library takes a shorter struct as an older caller's."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("prompts", ctypes.POINTER(ctypes.c_char_p)),
        ("prompt_count", ctypes.c_size_t),
    )


@dataclass(frozen=True)
class Comparison:
    """Medians of interleaved rounds; the ratio's quartiles are of the rounds' own ratios."""

    what: str
    python_ms: float
    c_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def compare(what: str, python: Callable[[], Any], c: Callable[[], Any], rounds: int) -> Comparison:
    """After a warm-up round; who goes first alternates."""
    pairs = []
    for number in range(rounds + 1):
        first, second = (python, c) if number % 2 else (c, python)
        one, two = timed(first), timed(second)
        pairs.append((one, two) if number % 2 else (two, one))
    pairs = pairs[1:]
    low, middle, high = quantiles([theirs / ours for ours, theirs in pairs], n=4)
    return Comparison(what, median(a for a, _ in pairs), median(b for _, b in pairs), middle, low, high, rounds)


def built(folder: Path) -> tuple[Path, Path]:
    """The library and the example service."""
    embed = [sys.executable, "-m", "hsexport.cli.main", "embed", "--build", str(folder), "--cmake-dir"]
    cmake_dir = subprocess.run(embed, check=True, capture_output=True, text=True).stdout.strip()
    tree = str(folder / "service")
    configure = ["cmake", "-S", str(EXAMPLE), "-B", tree, f"-Dhsruntime_DIR={cmake_dir}"]
    for command in (configure, ["cmake", "--build", tree]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "lib" / "libhsruntime.so", Path(tree) / "service"


def picture_through(lib: ctypes.CDLL, bundle: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    """Functions that make one picture, and that close the session."""
    handle = ctypes.c_void_p()
    lib.hsr_last_error.restype = ctypes.c_char_p
    if lib.hsr_open(os.fsencode(bundle), None, ctypes.byref(handle)):
        raise RuntimeError(lib.hsr_last_error().decode())
    request = _Request(ctypes.sizeof(_Request), (ctypes.c_char_p * 1)(PROMPT.encode()), 1)

    def make() -> None:
        result = ctypes.c_void_p()
        if lib.hsr_generate(handle, ctypes.byref(request), ctypes.byref(result)):
            raise RuntimeError(lib.hsr_last_error().decode())
        lib.hsr_result_free(result)

    return make, lambda: lib.hsr_close(handle)


def per_picture(lib: ctypes.CDLL, bundle: Path, rounds: int) -> Comparison:
    """In this process, one open session each."""
    make, close = picture_through(lib, bundle)
    with Session.open(bundle) as session:
        found = compare("a picture", lambda: session.generate(PROMPT), make, rounds)
    close()
    return found


def first_picture(service: Path, bundle: Path, folder: Path, rounds: int) -> Comparison:
    """From nothing to a PNG: processes of their own, files in the system's cache."""
    python = [sys.executable, "-c", FIRST_PICTURE, str(bundle), PROMPT, str(folder / "first.png")]
    c = [str(service), str(bundle), "--out", str(folder), "--prompt", PROMPT, "--pictures", "1", "--threads", "1"]

    def run(command: list[str]) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    return compare("first picture of a process", lambda: run(python), lambda: run(c), rounds)


def main(
    bundle: Annotated[Path, typer.Argument(help="a bundle")],
    rounds: Annotated[int, typer.Option(help="interleaved rounds of a picture")] = 40,
    processes: Annotated[int, typer.Option(help="interleaved rounds of new processes")] = 8,
    out: Annotated[Path | None, typer.Option("--json", help="also write the numbers here")] = None,
) -> None:
    """Measure the C library beside Python."""
    with tempfile.TemporaryDirectory() as room:
        library, service = built(Path(room))
        rows = [
            per_picture(ctypes.CDLL(str(library)), bundle, rounds),
            first_picture(service, bundle, Path(room), processes),
        ]
    table = Table("median of", "rounds", "Python ms", "C ms", "C over Python", "middle half")
    for r in rows:
        spread = f"{r.ratio_low:.3f} to {r.ratio_high:.3f}"
        table.add_row(r.what, str(r.rounds), f"{r.python_ms:.1f}", f"{r.c_ms:.1f}", f"{r.ratio:.3f}", spread)
    Console().print(table)
    if out:
        write_report(out, {"hardware": asdict(hardware(os.cpu_count() or 1)), "rows": [asdict(r) for r in rows]})


if __name__ == "__main__":
    typer.run(main)
