"""The wheels of pinned requirements, fetched for another machine."""

from __future__ import annotations

from pathlib import Path

from hsengines.errors import HSError
from hsexport.deploy.archive.pip import PipError, pip
from hsexport.deploy.archive.target import Target
from hsexport.progress import Reporter


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
