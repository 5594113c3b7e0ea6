"""Wheels: hsexport's own, built from a checkout or put together again from where it is installed, and those of pinned
requirements, fetched for another machine by pip, which offers no interface but its process.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Mapping
from email.parser import Parser
from importlib.metadata import Distribution, PackagePath, distribution
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import hsexport
from hsengines.errors import HSError
from hsexport.deploy.archive.pins import Target
from hsexport.progress import Reporter

_INSTALLERS_OWN = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
PURE = {"HSEXPORT_PURE_WHEEL": "1"}
"""For hatch_build.py: without the compiled C library, which would be this machine's alone. Its sources go along."""
LEFT_OUT = ("hsexport/demo/large/", "hsexport/demo/small/")
"""The demo pair: 31 MB that only a build reads, and an archive goes where nothing is built."""


def own_wheel(into: Path) -> Path:
    """Writes the wheel of the hsexport that runs here, without LEFT_OUT; for any platform if it runs from a checkout.

    The same bytes every time.
    """
    checkout = Path(hsexport.__file__).parents[1]
    if not (checkout / "pyproject.toml").is_file():
        return repacked(distribution("hsexport"), into)
    place = into / "built"
    isolation = ["--no-build-isolation"] if find_spec("hatchling") else []
    pip("wheel", "--no-deps", *isolation, "--wheel-dir", str(place), str(checkout), environment=PURE)
    built = next(place.glob("hsexport-*.whl"))
    with ZipFile(built) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if _is_in_wheel(PackagePath(name))}
    built.unlink()
    place.rmdir()
    return _written(into / built.name, files)


def requirements_of(wheel: Path) -> list[str]:
    """What its metadata require, extras included."""
    with ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])


def repacked(installed: Distribution, into: Path) -> Path:
    """Writes the wheel that a distribution was installed from, as far as its files still say.

    Scripts are left out: installers make them from the entry points. Raises HSError if a file was changed since.
    """
    listed = [file for file in installed.files or () if _is_in_wheel(file)]
    files = {file.as_posix(): _checked_bytes(file) for file in listed}
    info = next(file.parts[0] for file in listed if file.parts[0].endswith(".dist-info"))
    tags = Parser().parsestr(installed.read_text("WHEEL") or "").get_all("Tag", [])
    return _written(into / f"{info.removesuffix('.dist-info')}-{_compressed(tags)}.whl", files)


def _checked_bytes(file: PackagePath) -> bytes:
    data = Path(file.locate()).read_bytes()
    if file.hash is not None and file.hash.value != _digest(data):
        raise HSError(f"'{file.locate()}' was changed after it was installed", "install hsexport again")
    return data


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _written(wheel: Path, files: Mapping[str, bytes]) -> Path:
    """Files by name, sorted, and their RECORD last."""
    rows = io.StringIO(newline="")
    record = csv.writer(rows, lineterminator="\n")
    with ZipFile(wheel, "w", ZIP_DEFLATED) as archive:
        for name in sorted(files):
            _add(archive, name, files[name])
            record.writerow((name, f"sha256={_digest(files[name])}", len(files[name])))
        info = next(name.partition("/")[0] for name in files if ".dist-info/" in name)
        record.writerow((f"{info}/RECORD", "", ""))
        _add(archive, f"{info}/RECORD", rows.getvalue().encode())
    return wheel


def _is_in_wheel(file: PackagePath) -> bool:
    if ".." in file.parts or "__pycache__" in file.parts or file.suffix == ".pyc":
        return False
    if file.as_posix().startswith(LEFT_OUT):
        return False
    return not (file.parts[0].endswith(".dist-info") and file.name in _INSTALLERS_OWN)


def _compressed(tags: list[str]) -> str:
    """One set of tags for a file name: py2-none-any and py3-none-any as py2.py3-none-any."""
    columns = zip(*(tag.split("-") for tag in tags), strict=True)
    return "-".join(".".join(dict.fromkeys(column)) for column in columns)


def _add(archive: ZipFile, name: str, data: bytes) -> None:
    info = ZipInfo(name)  # of 1980, whenever it was installed
    info.external_attr, info.compress_type = 0o644 << 16, ZIP_DEFLATED
    archive.writestr(info, data)


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
