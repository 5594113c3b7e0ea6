"""Which families there are, one row each; nothing of a family is imported before its name is known."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
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
    single_file: str = ""
    """What one of its transformers in a single file is, as messages have it; empty if folders alone are read."""
    marks: tuple[str, ...] = ()
    """Parts of tensors' names; one in a single file tells the family. The first is named where there is none."""
    architectures: tuple[str, ...] = ()
    """What a GGUF file of one is called."""


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
        single_file="an SD3 checkpoint",
        marks=("joint_blocks.",),
        architectures=("sd3",),
    ),
    "flux2": FamilyRow(
        title="FLUX.2",
        made="hsexport.families.flux2.family:Flux2",
        transformer="Flux2Transformer2DModel",
        parts=("vae", "text_encoder", "tokenizer", "scheduler"),
        single_file="a FLUX.2 checkpoint",
        # The trailing dots tell them from diffusers' names, which end in "linear".
        marks=(
            "double_stream_modulation_img.lin.",
            "double_stream_modulation_txt.lin.",
            "single_stream_modulation.lin.",
        ),
        architectures=("flux", "flux2"),
    ),
}

Kinds = tuple[tuple[tuple[str, ...], str, str | None], ...]
"""Parts of tensors' names, what a file with such names is, and what to do; the first that occurs tells."""
ADDITIONS: Kinds = (
    (("lora_A", "lora_B", "lora_down", "lora_up", ".lokr_", ".hada_"), "a LoRA", "fuse it into a model: --lora {file}"),
    (("control_", "controlnet"), "a ControlNet", None),
)
"""What is made for a transformer of some family, and has names as it has."""
DIFFUSERS = ("one file of a diffusers directory", "give the directory with its config.json: {parent}")
OTHER_MODELS: Kinds = (
    (("conditioner.embedders.",), "a Stable Diffusion XL checkpoint", None),
    (("input_blocks.", "down_blocks."), "a UNet", None),
    (("time_guidance_embed.",), *DIFFUSERS),
    (("distilled_guidance_layer.",), "a Chroma checkpoint", None),
    (("vector_in.", ".img_mod."), "a FLUX.1 checkpoint", None),
    (("double_blocks.", "single_transformer_blocks."), "a Flux checkpoint", None),
    (("double_layers.",), "an AuraFlow checkpoint", None),
    (("time_text_embed.",), *DIFFUSERS),
)
"""What is no family's."""


def family_of(transformer: Path) -> Family:
    """By the class in its configuration, or by the names in a single file. Raises PairError."""
    if transformer.is_file():
        # Whoever asks for the families' titles alone needs no reader of tensors.
        from hsexport.checkpoints.shards import file_tensors

        architectures = [each for row in FAMILIES.values() for each in row.architectures]
        return _made(FAMILIES[family_in(transformer, file_tensors(transformer, architectures), FAMILIES)])
    found = read_document(transformer / "config.json").get("_class_name")
    for row in FAMILIES.values():
        if row.transformer == found:
            return _made(row)
    classes = " or ".join(row.transformer for row in FAMILIES.values())
    raise PairError(f"{transformer} is a {found or 'model of unnamed class'}, expected {classes}", families_in_words())


def family_in(file: Path, tensors: Iterable[str], families: Iterable[str]) -> str:
    """The one of `families` whose transformer a single file with such tensors holds.

    Raises PairError, which says as far as names tell what the file is instead.
    """
    names, rows = list(tensors), {name: FAMILIES[name] for name in families if FAMILIES[name].marks}
    found = next((name for name, row in rows.items() if holds(names, row.marks)), None)
    others: Kinds = tuple((row.marks, row.single_file, None) for name, row in FAMILIES.items() if name not in rows)
    kinds = ADDITIONS if found else ADDITIONS + others + OTHER_MODELS
    told, hint = next(((told, hint) for marks, told, hint in kinds if holds(names, marks)), (None, None))
    if found and not told:
        return found
    expected = " or ".join(row.single_file for row in rows.values())
    if not told:
        lacks = " or ".join(row.marks[0].removesuffix(".") for row in rows.values())
        raise PairError(f"{file} holds no {lacks}, expected {expected}", families_in_words())
    hint = hint.format(file=file, parent=file.parent) if hint else families_in_words()
    raise PairError(f"{file} is {told}, expected {expected}", hint)


def holds(names: Iterable[str], marks: tuple[str, ...]) -> bool:
    """Whether one of the marks occurs in one of the names."""
    return any(mark in name for name in names for mark in marks)


def _made(row: FamilyRow) -> Family:
    family: Family = named(row.made)()
    return family


def families_in_words() -> str:
    """Which there are, as a hint."""
    titles = [row.title for row in FAMILIES.values()]
    return f"hsexport exports the {' and '.join(titles)} famil{'y' if len(titles) == 1 else 'ies'}"


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
