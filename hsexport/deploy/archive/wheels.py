"""The wheels of pinned requirements, fetched for another machine by pip, which offers no interface but its process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from hsengines.errors import HSError
from hsexport.deploy.archive.target import Target
from hsexport.progress import Reporter


class PipError(HSError):
    """pip could not do what it was asked."""


def pip(command: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
    """Runs `pip COMMAND`, with more in its environment. Raises PipError with pip's own last words."""
    if find_spec("pip") is None:
        raise PipError("this Python has no pip", "python -m ensurepip")
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, "--quiet", "--no-input", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")] or [
            f"code {done.returncode}"
        ]
        raise PipError(f"pip {command} failed: {errors[-1].removeprefix('ERROR: ')}", "see to it with pip itself")


def fetch_wheels(pins: list[str], target: Target, into: Path, reporter: Reporter) -> list[Path]:
    """Downloads a wheel for each of `pins`; what has none for `target` is built here, if that fits any machine.

    Raises HSError for a requirement that has no wheel for `target`.
    """
    reporter.stage("wheels", len(pins))
    wheels = []
    for pin in pins:
        reporter.begin(pin)
        wheels.append(_wheel(pin, target, into))
        reporter.end(pin)
    return wheels


def _wheel(pin: str, target: Target, into: Path) -> Path:
    folder = into / pin
    folder.mkdir()
    try:
        pip("download", "--no-deps", *target.pip_options, "--dest", str(folder), pin)
    except PipError as err:
        _build(pin, target, folder, err)
    return next(folder.glob("*.whl"))


def _build(pin: str, target: Target, folder: Path, missing: PipError) -> None:
    """Some packages, TensorRT's among them, are published as sources that only name others."""
    try:
        pip("wheel", "--no-deps", "--wheel-dir", str(folder), pin)
    except PipError:
        raise missing from None
    wheel = next(folder.glob("*.whl"))
    if not (target.is_here or wheel.stem.endswith("-none-any")):
        there = f"Python {target.python_version} on {target.platform or 'this platform'}"
        raise HSError(f"{pin} has no wheel for {there}, and the one built here fits this machine only", missing.message)
