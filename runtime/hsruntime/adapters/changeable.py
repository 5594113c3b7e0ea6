"""What a bundle says of the weights that adapters may change, a file for each member and each text encoder.

Specified in runtime/BUNDLE.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from hsruntime.adapters.headers import Place
from hsruntime.facts import Count, Facts, Strict, TextSlot

Role = Literal["large", "small"]
"""The members of a pair."""

ENGINES_OF: Mapping[Role, tuple[str, ...]] = {
    "large": ("large", "light", "condition_large"),
    "small": ("small", "condition_small"),
}
"""The engines whose transformer is a member's."""
Shape = tuple[Count, ...]
Index = Annotated[int, Meta(ge=0)]
"""Counted from 0."""


class Initialiser(Strict, frozen=True, kw_only=True):
    """A whole tensor of the checkpoint as an engine's graph has it: its axes in the order `axes`, from `offset` on."""

    name: str
    weight: str
    """The tensor's name, as in `shapes`."""
    dtype: str
    """numpy's name, or bfloat16."""
    shape: Shape
    axes: tuple[Index, ...]
    offset: Index


class EngineWeights(Strict, frozen=True, kw_only=True):
    """Where an engine's initialisers lie: in that file of the bundle."""

    file: str
    initialisers: list[Initialiser]


class Rows(Strict, frozen=True, kw_only=True):
    """Of a module of another layout, cut into `parts` ranges of rows, those in `order`."""

    module: str
    parts: Annotated[int, Meta(ge=1)]
    order: tuple[Index, ...]


class Changeable(Strict, frozen=True, kw_only=True):
    """All that an adapter's part for one member or one text encoder is read and merged by."""

    shapes: dict[str, Shape]
    """Of the weights that modules have, by diffusers' names, a text encoder's by transformers'."""
    rows: dict[str, Rows]
    """The same weights, where another layout has them."""
    engines: dict[str, EngineWeights]

    @property
    def places(self) -> dict[str, Place]:
        """As the reader of LoRAs takes them."""
        return {name: Place(f"{rows.module}.weight", rows.parts, rows.order) for name, rows in self.rows.items()}


def path_of(part: str) -> str:
    """Where a bundle has the record of a member, by its role, or of a text encoder, by its engine."""
    return f"adapters/{part}.json"


def engines_of(part: str) -> tuple[str, ...]:
    """The engines that have a part's weights; a text encoder is one."""
    return next((engines for role, engines in ENGINES_OF.items() if role == part), (part,))


def encoders_read(facts: Facts, role: Role) -> dict[str, TextSlot]:
    """The text encoders that a member reads, by their engines; a side that both read is each one's."""
    return {slot.engine: slot for slot in facts.text[facts.members[role].text].encoders}
