"""The pair: two transformers of one family that share a latent space, read by configurations and headers alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.hub import DOWNLOADS, Fetcher
from hsexport.checkpoints.quantised import quantised_in_words
from hsexport.checkpoints.shards import TensorHeader, has_weights, mark_of, read_headers
from hsexport.checkpoints.source import ModelDirectory, Role, find_model, is_local, resolve_source
from hsexport.families.family import Family
from hsexport.families.registry import FAMILIES, family_of, known_parts


@dataclass(frozen=True)
class Member:
    """A transformer and whatever lies beside it; `source` is what the user gave.

    `config` is the family's own record. `tensors` are its weights by diffusers' names: the same, with the same digest,
    from every layout.
    """

    role: Role
    source: str
    directory: ModelDirectory
    family: Family
    config: Any
    parameters: int
    tensors: Mapping[str, TensorHeader] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.role} '{self.source}'"

    def told_source(self) -> str:
        """Where it is from, as a bundle may tell: `demo` or a hub id as given, a mark in place of a local path."""
        return mark_of(self.tensors) if is_local(self.source) else self.source


@dataclass(frozen=True)
class Pair:
    """A large and a small member that belong together, or a large one alone.

    `shared` maps part names to folders, large's where both have one; `parts` is what their family read of them.
    """

    large: Member
    small: Member | None
    shared: Mapping[str, Path]
    parts: Any

    @property
    def members(self) -> tuple[Member, ...]:
        """Large, and small if it is there."""
        return (self.large, self.small) if self.small else (self.large,)

    @property
    def family(self) -> Family:
        """Of both."""
        return self.large.family


def load_pair(large: str, small: str | None, without: Collection[str] = (), fetcher: Fetcher = DOWNLOADS) -> Pair:
    """Finds both members (a directory, a hub id or `demo`) and checks that they belong together.

    Reads configurations and safetensors headers alone: whether a part that both members bring holds the same numbers,
    check_same_weights tells.
    Weights of the parts in `without` are neither downloaded nor looked at: nobody will read them. What is
    fetched of a hub id, `fetcher` decides.
    """
    ours = read_member("large", large, without, fetcher)
    theirs = read_member("small", small, without, fetcher) if small else None
    if theirs and ours.family.name != theirs.family.name:
        told = f"{FAMILIES[ours.family.name].title} and {FAMILIES[theirs.family.name].title}"
        raise PairError(f"{ours} and {theirs} are of two families: {told}", "take both members from one model family")
    parts = ours.family.check_pair(ours, theirs, without)
    return Pair(ours, theirs, shared_parts(ours, theirs), parts)


def shared_parts(large: Member, small: Member | None) -> dict[str, Path]:
    """Every part that either member has; large's where both do."""
    parts = {**(small.directory.parts if small else {}), **large.directory.parts}
    return {name: parts[name] for name in known_parts() if name in parts}


def parts_of_both(large: Member, small: Member | None) -> dict[str, tuple[Path, Path]]:
    """The parts that lie in two places, large's and small's."""
    if small is None:
        return {}
    ours, theirs = large.directory.parts, small.directory.parts
    shared = [name for name in known_parts() if name not in large.family.own_parts]
    both = {name: (ours[name], theirs[name]) for name in shared if name in ours and name in theirs}
    return {name: paths for name, paths in both.items() if not paths[0].samefile(paths[1])}


def read_member(role: Role, source: str, without: Collection[str] = (), fetcher: Fetcher = DOWNLOADS) -> Member:
    """The member behind `source`, its weights set beside its configuration; those of `without` need not be there."""
    directory = find_model(resolve_source(source, role, known_parts(), without, fetcher), known_parts())
    family = family_of(directory.transformer)
    config, tensors = family.read_transformer(directory.transformer)
    parameters = sum(header.elements for header in tensors.values() if family.counts(header.name))
    return Member(role, source, directory, family, config, parameters, tensors)


def quantised_members(pair: Pair, without: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Members and parts, but for those in `without`, that hold quantised tensors: name, and how many in which type."""
    found: dict[str, Mapping[str, TensorHeader]] = {member.role: member.tensors for member in pair.members}
    for name, folder in pair.shared.items():
        if name not in without and has_weights(folder):
            found[name] = read_headers(folder)
    for name, tensors in found.items():
        if counts := quantised_in_words(tensors.values()):
            yield name, counts
