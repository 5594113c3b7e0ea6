"""What only building needs: the options, what is left by a build, and how it is followed. Loading never imports it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import msgspec
from msgspec import Meta, Struct

from hsengines.errors import EngineBuildError
from hsengines.traits import backend_names, named, traits_of
from hsengines.weights import UNQUANTIZED, formats_in

BuildProgress = Callable[[str, int, int], None]
"""Hears of a build: phase, steps done, steps in all."""

NODE_SEPARATOR = " + "
"""Between the names of the nodes that one layer stands for."""


class BuildOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every backend can be told; one that takes more has a record of its own in its folder, which its row names.

    An option's "flag" is what it is called on a command line, where that is not its name.
    """

    precision: Annotated[str, Meta(description="what graphs are cast to; default: the backend's first")] = "fp32"
    weights: Annotated[str, Meta(description="how weights are stored")] = UNQUANTIZED
    """As `hsengines.weights.asked_weights` reads it."""

    reasons: ClassVar[dict[str, str]] = {}
    """Why the backend lacks an option or a precision that another has, where there is more to say than that it does."""

    def check_for(self, backend: str) -> None:
        """Raises EngineBuildError for another backend's record, and for what `backend` has no kernels for."""
        if type(self) is not options_kind(backend):
            raise EngineBuildError(f"backend '{backend}' is given {type(self).__name__}, which is another backend's")
        traits = traits_of(backend)
        formats = (UNQUANTIZED, *traits.weights)
        told = [("--precision", self.precision, traits.precisions)]
        told += [("--weights", found, formats) for found in formats_in(self.weights)]
        for flag, value, allowed in told:
            if value not in allowed:
                reason = f": {self.reasons[value]}" if value in self.reasons else ""
                way_out = "choose one of these" if len(allowed) > 1 else f"leave {flag} out"
                raise EngineBuildError(
                    f"backend '{backend}' builds {' or '.join(sorted(allowed, reverse=True))}, not {value}{reason}",
                    f"{way_out} or name another backend",
                )

    @property
    def streams_weights(self) -> bool:
        """Whether engines fetch their weights while they run, in whatever room is left."""
        return False

    @property
    def leaves_weights(self) -> bool:
        """Whether engines lie without their weights, which stay in a file beside them."""
        return False

    @property
    def takes_weights(self) -> bool:
        """Whether engines that hold their weights, and have them in a file beside them too, take others on loading."""
        return False

    def of_fixed_weights(self) -> Self:
        """The same for a network whose weights nobody will replace."""
        return self


@dataclass(frozen=True)
class Layer:
    """One layer as the builder took it: the graph's nodes it stands for, joined, and its outputs' dtypes.

    `reads` are the types of what it reads quantised, where the builder tells.
    """

    name: str
    kind: str
    dtypes: tuple[str, ...]
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class EngineFiles:
    """What a build leaves: the engine itself, and weight files it refers to by bare name in its own folder.

    `layers` lists what the builder made of the graph, read from `layers_of`: the "engine" itself, or the "network" as
    parsed where an engine cannot be opened on the building machine. `log` is the builder's own.
    """

    engine: Path
    weights: tuple[Path, ...] = ()
    layers: tuple[Layer, ...] = ()
    layers_of: str = ""
    log: str = ""


def build_options(backend: str, **given: Any) -> BuildOptions:
    """The record of `backend` with what is `given`, in the backend's first precision unless told.

    Raises EngineBuildError for options that the backend has not, which it would otherwise drop without a word.
    """
    kind = options_kind(backend)
    foreign = {name: value for name, value in given.items() if name not in kind.__struct_fields__}
    for name in foreign:
        if reason := kind.reasons.get(name):
            told = f"backend '{backend}' cannot build with {_flag(name)}: {reason}"
            raise EngineBuildError(told, "leave the option out")
    if foreign:
        told = ", ".join(f"{_flag(name)} {_shown(value)}" for name, value in foreign.items())
        knows = ", ".join(sorted(map(_flag, kind.__struct_fields__)))
        raise EngineBuildError(
            f"backend '{backend}' cannot build with {told}; the options it has are {knows}",
            "leave the others out or name another backend",
        )
    return kind(**{"precision": traits_of(backend).precisions[0], **given})


def options_kind(backend: str) -> type[BuildOptions]:
    """The record that `backend` takes; needs none of its library. Raises BackendUnavailable if there is no such one."""
    found: type[BuildOptions] = named(traits_of(backend).options)
    return found


def own_options() -> dict[str, dict[str, Any]]:
    """The JSON schema of each option that not every backend has: type, default, description, flag, backends."""
    schemas: dict[str, dict[str, Any]] = {}
    for backend in backend_names():
        kind = options_kind(backend)
        properties = msgspec.json.schema_components([kind])[1][kind.__name__]["properties"]
        for name, schema in properties.items():
            if name not in BuildOptions.__struct_fields__:
                known = schemas.setdefault(name, {"flag": "--" + name.replace("_", "-"), "backends": [], **schema})
                known["backends"].append(backend)
    return schemas


def _flag(name: str) -> str:
    return str(own_options().get(name, {}).get("flag", "--" + name.replace("_", "-")))


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
