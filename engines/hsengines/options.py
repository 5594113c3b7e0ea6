"""Refuses build options that a backend would otherwise drop without a word."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields

from hsengines.backend import BuildOptions
from hsengines.errors import EngineBuildError

_FLAGS = {"architectures": "--arch", "workspace_mb": "--workspace", "stripped": "--strip"}


def flag_of(option: str) -> str:
    """What users call a field of BuildOptions."""
    return _FLAGS.get(option, "--" + option.replace("_", "-"))


def refuse_foreign_options(backend: str, options: BuildOptions, known: Collection[str] = ("precision",)) -> None:
    """Raises EngineBuildError for the options that differ from their defaults and are not `known` to `backend`."""
    plain = BuildOptions()
    foreign = [
        f"{flag_of(each.name)} {_shown(getattr(options, each.name))}"
        for each in fields(options)
        if each.name not in known and getattr(options, each.name) != getattr(plain, each.name)
    ]
    if foreign:
        knows = ", ".join(sorted(map(flag_of, known))) or "none"
        raise EngineBuildError(
            f"backend '{backend}' cannot build with {', '.join(foreign)}; the options it has are {knows}",
            "leave the others out or name another backend",
        )


def refuse_precision(backend: str, options: BuildOptions, *allowed: str) -> None:
    """Raises EngineBuildError if the graph was cast to a precision that `backend` has no kernels for."""
    if options.precision not in allowed:
        way_out = "leave --precision out" if len(allowed) == 1 else "choose one of these"
        raise EngineBuildError(
            f"backend '{backend}' builds {' or '.join(allowed)}, not {options.precision}",
            f"{way_out} or name another backend",
        )


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
