"""Which families there are, one row each; nothing of a family is imported before its name is known."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hsengines.traits import named
from hsexport.checkpoints.documents import PairError, read_document

if TYPE_CHECKING:
    from hsexport.families.family import Family
    from hsruntime.facts import Facts


@dataclass(frozen=True)
class FamilyRow:
    """What must be known of a family before it is imported."""

    title: str
    """As people call it."""
    made: str
    """Its class, as "module:name"."""
    transformer: str
    """diffusers' class of its transformers."""
    parts: tuple[str, ...]
    """Folders beside the transformer."""
    optional: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What a build may leave out (`--without-NAME`): the part whose weights then stay away, and what that means."""


FAMILIES: dict[str, FamilyRow] = {
    "sd3": FamilyRow(
        title="SD3",
        made="hsexport.families.sd3.family:Sd3",
        transformer="SD3Transformer2DModel",
        parts=(
            *("vae", "text_encoder", "text_encoder_2", "text_encoder_3"),
            *("tokenizer", "tokenizer_2", "tokenizer_3", "scheduler"),
        ),
        optional={"t5": ("text_encoder_3", "leave T5 out: a smaller bundle that follows long prompts less closely")},
    ),
    "flux2": FamilyRow(
        title="FLUX.2",
        made="hsexport.families.flux2.family:Flux2",
        transformer="Flux2Transformer2DModel",
        parts=("vae", "text_encoder", "tokenizer", "scheduler"),
    ),
}


def family_of(transformer: Path) -> Family:
    """By the class in its configuration; of a single file the first, which tells what it is not. Raises PairError."""
    single = transformer.is_file()
    found = None if single else read_document(transformer / "config.json").get("_class_name")
    for row in FAMILIES.values():
        if single or row.transformer == found:
            family: Family = named(row.made)()
            return family
    classes = " or ".join(row.transformer for row in FAMILIES.values())
    titles = [row.title for row in FAMILIES.values()]
    raise PairError(
        f"{transformer} is a {found or 'model of unnamed class'}, expected {classes}",
        f"hsexport exports the {' and '.join(titles)} famil{'y' if len(titles) == 1 else 'ies'}",
    )


def known_parts() -> tuple[str, ...]:
    """Folders that belong to a model of any family."""
    return tuple(dict.fromkeys(part for row in FAMILIES.values() for part in row.parts))


def parts_left_out(without: Collection[str]) -> tuple[str, ...]:
    """The parts behind names of `optional`. Raises PairError for a name that no family has."""
    optional = {name: part for row in FAMILIES.values() for name, (part, _) in row.optional.items()}
    for name in without:
        if name not in optional:
            raise PairError(f"no family has '{name}' to leave out", f"choose one of {', '.join(optional)}")
    return tuple(optional[name] for name in without)


def left_out_of(facts: Facts) -> tuple[str, ...]:
    """The names of `optional` that a bundle was built without, or whose parts its pair never had."""
    there = {slot.engine for slot in facts.slots}
    return tuple(name for name, (part, _) in FAMILIES[facts.family].optional.items() if part not in there)


def options_to_leave_out() -> Iterator[tuple[str, str]]:
    """Name and help of everything that some family lets a build leave out."""
    for row in FAMILIES.values():
        yield from ((name, told) for name, (_, told) in row.optional.items())
