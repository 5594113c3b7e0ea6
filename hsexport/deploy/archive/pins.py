"""Exact versions of everything that a wheel needs, as installed here or as given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hsengines.errors import HSError
from hsexport.deploy.archive.target import Target


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
