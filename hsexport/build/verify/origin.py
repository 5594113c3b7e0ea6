"""The pair that a finished bundle was built from, found again: by the bundle's own words, or by the user's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from hsengines.errors import HSError
from hsexport.build.recipe import recipe_for
from hsexport.build.request import BuildRequest
from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.shards import is_mark
from hsexport.checkpoints.source import Role
from hsexport.checkpoints.weights.adapter import AdapterRequest
from hsexport.families.registry import left_out_of
from hsexport.networks.recipe import Recipe
from hsruntime.bundle.reader import Bundle
from hsruntime.facts import Transformer

ROLES: tuple[Role, ...] = ("large", "small")


@dataclass(frozen=True)
class NamedPair:
    """What the user says a bundle was built from; None leaves it to the bundle."""

    large: str | None = None
    small: str | None = None
    lora: tuple[AdapterRequest, ...] = ()


UNNAMED = NamedPair()


def recipe_of(bundle: Bundle, named: NamedPair) -> Recipe:
    """The recipe that the bundle was built by. Raises HSError where the pair is not here, or is another one."""
    sizes = bundle.manifest.facts.sizes
    request = BuildRequest(
        large=_source(bundle, named, "large"),
        small=_source(bundle, named, "small"),
        out=bundle.path,
        cache=Path(),
        lora=named.lora,
        size=sizes.default,
        min_size=sizes.minimum,
        max_size=sizes.maximum,
        max_batch=sizes.max_batch,
        without=left_out_of(bundle.manifest.facts),
    )
    recipe = recipe_for(request)
    for role in ROLES:
        _check_same(role, getattr(bundle.manifest.facts, role), getattr(recipe.facts, role))
    return recipe


def _source(bundle: Bundle, named: NamedPair, role: Role) -> str:
    given, told = getattr(named, role), getattr(bundle.manifest.facts, role).source
    if given is not None:
        return given
    if is_mark(told):
        raise HSError(f"{role} was built from a local path, name it again: --{role} PATH")
    if told != "demo" and not Path(told).is_dir():  # a check must not start a download
        raise HSError(f"'{told}' is not on this machine")
    return told


def _check_same(role: Role, built: Transformer, found: Transformer) -> None:
    """Refuses another model or other LoRAs; of a hub id and a local path only the architectures are compared."""
    if is_mark(built.source) != is_mark(found.source):
        found = msgspec.structs.replace(found, source=built.source)
    for field in built.__struct_fields__:
        said, seen = getattr(built, field), getattr(found, field)
        if said != seen:
            raise PairError(
                f"the pair is not the one that this bundle was built from: {role} has {field} {_in_words(seen)}, "
                f"expected {_in_words(said)}",
                "name the model, and each --lora with its scale, as in the build",
            )


def _in_words(value: object) -> str:
    """A field's value; LoRAs by name and scale."""
    if isinstance(value, tuple) and value and hasattr(value[0], "scale"):
        return ", ".join(f"{a.name} ({a.sha256[:12]}) {a.scale:g} times" for a in value)
    return str(value or "none")
