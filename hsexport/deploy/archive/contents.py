"""What goes into an archive: the bundle, and if wanted all that a machine with nothing but Python needs to run it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hsengines.errors import HSError
from hsengines.files import workplace
from hsengines.traits import traits_of
from hsexport.deploy.archive.archive import Member, checked_name, write_archive
from hsexport.deploy.archive.own_wheel import own_wheel, requirements_of
from hsexport.deploy.archive.pins import pins_of
from hsexport.deploy.archive.target import Target
from hsexport.deploy.archive.wheels import fetch_wheels
from hsexport.progress import Reporter
from hsruntime.bundle.reader import MANIFEST_NAME, Bundle, open_bundle, sha256_of


@dataclass(frozen=True)
class RuntimeOptions:
    """The runtime beside the bundle. wheels: those of other packages, too, so that no network is needed there."""

    target: Target = field(default_factory=Target)
    wheels: bool = True
    versions: Mapping[str, str] = field(default_factory=dict)
    """Exact ones by name that go before those installed here; see `pins_of`."""


@dataclass(frozen=True)
class Archive:
    """A written archive."""

    archive: Path
    size_bytes: int
    requirements: tuple[str, ...]
    wheels: tuple[str, ...]


def archive_bundle(path: Path, out: Path, runtime: RuntimeOptions | None, reporter: Reporter) -> Archive:
    """Writes the archive `out` of the bundle at `path`, whole or not at all; a file there is replaced.

    The bundle's bytes are checked while they are copied. Raises BundleError, or HSError for what cannot be packed.
    """
    bundle = open_bundle(path, hashes=False)
    _check_out(out, bundle)
    with workplace(out.parent, out.name) as place:
        members = _bundle_members(bundle)
        pins: list[str] = []
        wheels: list[Path] = []
        if runtime is not None:
            pins, wheels = _runtime(bundle, runtime, place, reporter)
            members += _runtime_members(out, pins, wheels, runtime)
        write_archive(out, place, members, reporter)
    return Archive(out, out.stat().st_size, tuple(pins), tuple(wheel.name for wheel in wheels))


def _check_out(out: Path, bundle: Bundle) -> None:
    checked_name(out)
    if not out.parent.is_dir():
        raise HSError(f"{out.parent} is not a directory", "make it first, or write elsewhere")
    if out.is_dir():
        raise HSError(f"{out} is a directory", "name a file in it")
    if out.resolve().is_relative_to(bundle.path.resolve()):
        raise HSError(f"{out} lies inside the bundle, which holds its own files only", "write it elsewhere")


def _bundle_members(bundle: Bundle) -> list[Member]:
    # A folder of its own: a bundle with one file more is refused when it is opened.
    listed = [Member(f"bundle/{f.path}", bundle.path / f.path, f.size_bytes, f.sha256) for f in bundle.manifest.files]
    return [*listed, Member.of_bytes(f"bundle/{MANIFEST_NAME}", (bundle.path / MANIFEST_NAME).read_bytes())]


def _runtime(bundle: Bundle, runtime: RuntimeOptions, place: Path, reporter: Reporter) -> tuple[list[str], list[Path]]:
    """Pins, and wheels with our own first."""
    extra = traits_of(bundle.manifest.backend).extra
    if not extra:
        raise HSError(f"the bundle's backend '{bundle.manifest.backend}' has no runtime to pack", "leave --runtime out")
    ours = own_wheel(place)
    if not runtime.target.is_here and not ours.stem.endswith("-any"):
        raise HSError(f"the hsexport installed here is for this platform alone ({ours.name})", "pack from a checkout")
    pins = pins_of(requirements_of(ours), extra, runtime.target, runtime.versions)
    return pins, [ours, *(fetch_wheels(pins, runtime.target, place, reporter) if runtime.wheels else ())]


def _runtime_members(out: Path, pins: list[str], wheels: list[Path], runtime: RuntimeOptions) -> list[Member]:
    steps = install_steps(out, wheels[0].name, runtime)
    return [
        Member.of_bytes("requirements.txt", "".join(f"{pin}\n" for pin in pins).encode()),
        Member.of_bytes("INSTALL", "".join(f"{step}\n" for step in steps).encode()),
        *(Member(f"wheels/{w.name}", w, w.stat().st_size, sha256_of(w)) for w in wheels),
    ]


def install_steps(out: Path, wheel: str, runtime: RuntimeOptions) -> list[str]:
    """Five lines for the machine that the archive is copied to."""
    target, offline = runtime.target, "--no-index " if runtime.wheels else ""
    install = f"-m pip install {offline}--find-links wheels wheels/{wheel} -r requirements.txt"
    run = 'run bundle --prompt "red apple" --out picture.png'
    if target.is_windows:
        return [
            f'tar -xf "{out.name}" && cd "{checked_name(out)}"',
            "rem certutil -hashfile FILE SHA256 tells what SHA256SUMS says of each file",
            f"py -{target.python_version} -m venv env",
            f"env\\Scripts\\python {install}",
            f"env\\Scripts\\hsexport {run}",
        ]
    return [
        f"tar -xf {shlex.quote(out.name)} && cd {shlex.quote(checked_name(out))}",
        "sha256sum --check --quiet SHA256SUMS",
        f"python{target.python_version} -m venv env",
        f"env/bin/python {install}",
        f"env/bin/hsexport {run}",
    ]
