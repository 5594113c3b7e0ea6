"""What the C library costs over calling Python: per picture in one process, and to the first picture of a new one.

Builds library and example; needs CMake, a C++ compiler and libpng's headers.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from hsexport.measure.blocks import Measured, bundle_argument, finish, json_option, measured_on, table
from hsexport.measure.estimates import middle_half
from hsexport.measure.prompts import PROMPT
from hsexport.measure.turns import column, in_turns, seconds_of, speedups
from hsruntime import Session

EXAMPLE = Path(__file__).parents[2] / "scripts" / "examples" / "cpp"
FIRST_PICTURE = """
import sys
from PIL import Image
from hsruntime import Session
with Session.open(sys.argv[1]) as session:
    Image.fromarray(session.generate(sys.argv[2]).image).save(sys.argv[3])
"""
COLUMNS = (
    "median of: {what} | rounds: {rounds} | Python ms: {python_ms:.0f} | C ms: {c_ms:.0f}"
    " | C over Python: {ratio:.3f} | middle half: {ratio_low:.3f} to {ratio_high:.3f}"
)


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
    ours, theirs = column(played, "python"), column(played, "c")
    ratios = speedups(theirs, ours)
    low, high = middle_half(ratios)
    medians = {"python_ms": 1000 * float(np.median(ours)), "c_ms": 1000 * float(np.median(theirs))}
    ratio = {"ratio": float(np.median(ratios)), "ratio_low": low, "ratio_high": high}
    return {"what": what, **medians, **ratio, "rounds": rounds}


def built(folder: Path) -> tuple[Path, Path]:
    """The library and the example service."""
    embed = [sys.executable, "-m", "hsexport.cli.main", "embed", "--build", str(folder), "--cmake-dir"]
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


def first_picture(service: Path, bundle: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """From nothing to a PNG: processes of their own, files in the system's cache."""
    python = [sys.executable, "-c", FIRST_PICTURE, str(bundle), PROMPT, str(folder / "first.png")]
    c = [str(service), str(bundle), "--out", str(folder), "--prompt", PROMPT, "--pictures", "1", "--threads", "1"]
    run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
    return compare("first picture of a process", partial(run, python), partial(run, c), rounds)


def block(report: Measured) -> str:
    """Both comparisons."""
    return table(COLUMNS, report["rows"]) + measured_on(report)


@click.command()
@bundle_argument
@click.option("--rounds", default=40, help="in turns, of a picture")
@click.option("--processes", default=8, help="in turns, of new processes")
@json_option
def main(bundle: Path, rounds: int, processes: int, json_file: Path | None) -> None:
    """Measure the C library beside Python."""
    with tempfile.TemporaryDirectory() as room:
        library, service = built(Path(room))
        rows = [
            per_picture(ctypes.CDLL(str(library)), bundle, rounds),
            first_picture(service, bundle, Path(room), processes),
        ]
    finish(block, json_file, rows=rows)
