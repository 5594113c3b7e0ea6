"""The machine that an archive is for, and exact versions of all that a wheel needs there, as installed or as given."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hsengines.errors import HSError

_LIBCS = (17, 24, 26, 27, 28, 31, 34, 35)
"""Of glibc 2.x, the versions that wheels are built for."""


def _linux(machine: str) -> tuple[dict[str, str], tuple[str, ...]]:
    markers = {
        "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": machine,
    }  # fmt: skip
    oldest = "manylinux1" if machine == "x86_64" else "manylinux2014"
    named = (f"{oldest}_{machine}", f"manylinux2014_{machine}", f"linux_{machine}")
    # The oldest first: pip takes the first that fits, and the machine's own glibc is not known here.
    return markers, (*(f"manylinux_2_{minor}_{machine}" for minor in _LIBCS), *named)


PLATFORMS = {
    "linux-x86_64": _linux("x86_64"),
    "linux-aarch64": _linux("aarch64"),
    "windows-x86_64": (
        {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
        ("win_amd64",),
    ),
}
"""What `--platform` may say: its markers, where they differ from this machine's, and pip's tags for it."""


@dataclass(frozen=True)
class Target:
    """A Python (3.11) and a platform of PLATFORMS; what is None is this machine's. Raises HSError."""

    python: str | None = None
    platform: str | None = None

    def __post_init__(self) -> None:
        if self.platform is not None and self.platform not in PLATFORMS:
            raise HSError(f"there is no platform '{self.platform}'", f"choose one of {', '.join(PLATFORMS)}")
        if self.python is not None and not re.fullmatch(r"3\.\d+", self.python):
            raise HSError(f"'{self.python}' is no Python version", "say 3.11, for one")

    @property
    def is_here(self) -> bool:
        """Whether wheels built on this machine are right there, too."""
        return self.platform is None and self.python in (None, here())

    @property
    def python_version(self) -> str:
        """Two numbers."""
        return self.python or here()

    @property
    def is_windows(self) -> bool:
        """Whether its shell is not a POSIX one."""
        return self.markers.get("os_name", os.name) == "nt"

    @property
    def markers(self) -> dict[str, str]:
        """For requirements' markers: where it differs from this machine."""
        python = {"python_version": self.python_version, "python_full_version": f"{self.python_version}.0"}
        platform = PLATFORMS[self.platform][0] if self.platform else {}
        return {**(python if self.python else {}), **platform}

    @property
    def pip_options(self) -> list[str]:
        """Choose wheels for it, and nothing but wheels."""
        options = ["--only-binary=:all:", "--implementation=cp", f"--python-version={self.python_version}"]
        tags = PLATFORMS[self.platform][1] if self.platform else ()
        return options + [f"--platform={tag}" for tag in tags]


def here() -> str:
    """The version of the Python that runs this: 3.11."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def pins_of(requires: Sequence[str], extra: str, target: Target, given: Mapping[str, str]) -> list[str]:
    """Lines `name==version`, sorted, for requirements and all that they require in turn on `target`.

    requires: as a wheel's metadata lists them, of which `extra` is wanted, too. given: versions by name, which go
    before those installed here and are all pinned: what a version that is not installed requires cannot be known.
    Raises HSError for what is neither installed nor given.
    """
    search = _Search(target, given, dict(given))
    search.follow(requires, {extra}, "hsexport")
    return [f"{name}=={search.found[name]}" for name in sorted(search.found)]


def given_versions(file: Path) -> dict[str, str]:
    """Versions by name from lines `name==version`. Raises HSError for a line that is none."""
    lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    versions = {}
    for line in filter(None, lines):
        name, equal, version = line.partition("==")
        if not equal or not name or not version or set(line) & set(" ;,<>[]"):
            raise HSError(f"{file}: '{line}' does not say name==version", "give exact versions, one a line")
        versions[str(canonicalize_name(name))] = version
    return versions


@dataclass
class _Search:
    """A walk over installed distributions."""

    target: Target
    given: Mapping[str, str]
    found: dict[str, str]
    done: set[tuple[str, str]] = field(default_factory=set)

    def follow(self, requires: Iterable[str], extras: Iterable[str], asker: str) -> None:
        environments = [{**self.target.markers, "extra": extra} for extra in ("", *extras)]
        for wanted in map(Requirement, requires):
            # A marker's other names come from this machine: packaging fills them in.
            if wanted.marker is None or any(wanted.marker.evaluate(each) for each in environments):
                self._take(wanted, asker)

    def _take(self, wanted: Requirement, asker: str) -> None:
        name = canonicalize_name(wanted.name)
        self.found[name] = version = self._version(name, wanted, asker)
        for extra in sorted({"", *wanted.extras}):
            if (name, extra) in self.done:
                continue
            self.done.add((name, extra))
            self.follow(self._requires(name, version), [extra] if extra else [], name)

    def _version(self, name: str, wanted: Requirement, asker: str) -> str:
        installed = _installed_version(name)
        version = self.given.get(name, installed)
        if version is None:
            raise HSError(
                f"{asker} needs '{wanted}' there, and its version is not known here",
                f"install it, or name a file with the line {name}==VERSION: --versions FILE",
            )
        if not wanted.specifier.contains(version, prereleases=True):
            raise HSError(
                f"{asker} needs '{wanted}', and {name} {version} is {'given' if name in self.given else 'installed'}",
                "install or give one that fits",
            )
        return version

    def _requires(self, name: str, version: str) -> list[str]:
        """What it requires in turn, as far as that can be known here."""
        return distribution(name).requires or [] if _installed_version(name) == version else []


def _installed_version(name: str) -> str | None:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None
