"""Single files by their headers: a transformer's tensors by diffusers' names, each from its place in the file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from hsexport.checkpoints.documents import AGAIN, PairError
from hsexport.checkpoints.quantised import OTHERS, READABLE, block_bytes
from hsexport.checkpoints.shards import Place, TensorHeader, file_tensors
from hsexport.families.registry import FAMILIES, families_in_words, family_in, holds

PREFIXES = ("model.diffusion_model.", "diffusion_model.")
OTHER_PARTS = ("first_stage_model.", "text_encoders.", "vae.", "conditioner.", "cond_stage_model.")


def own_tensors(file: Path, family: str) -> dict[str, TensorHeader]:
    """The tensors of a family's transformer by the file's names without their prefix.

    The VAE and the text encoders that a file may hold beside it are left. Raises PairError for a file of another kind.
    """
    row = FAMILIES[family]
    found = file_tensors(file, row.architectures)
    family_in(file, found, [family])
    for prefix in PREFIXES:
        ours = {name.removeprefix(prefix): header for name, header in found.items() if name.startswith(prefix)}
        if holds(ours, row.marks):
            return ours
    # files without the prefix hold little else
    return {name: header for name, header in found.items() if not name.startswith(OTHER_PARTS)}


def extents(file: Path, tensors: Mapping[str, TensorHeader], name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that a configuration is inferred from; it has so many extents, none of them 0."""
    found = tensors[name].shape if name in tensors else None
    if found is None or len(found) != dimensions or 0 in found:
        held = f"{list(found)}" if found is not None else "missing"
        raise PairError(f"{file} is a broken checkpoint: tensor {name} is {held}", AGAIN)
    return found


def heads_of(file: Path, width: int, head_size: int) -> int:
    """How many heads come to the width."""
    if width % head_size:
        told = f"{file} has width {width}, expected a multiple of the head size {head_size}"
        raise PairError(told, families_in_words())
    return width // head_size


def layers_with(tensors: Iterable[str], block: str, tensor: str) -> tuple[int, ...]:
    """The numbers of the blocks `block`.N that have `tensor`, in ascending order."""
    pattern = re.compile(rf"{re.escape(block)}\.(\d{{1,7}})\.{re.escape(tensor)}", re.ASCII)
    return tuple(sorted(int(match[1]) for match in map(pattern.fullmatch, tensors) if match))


def placed(
    file: Path, tensors: Mapping[str, TensorHeader], places: Mapping[str, Place], model: str, hint: str
) -> dict[str, TensorHeader]:
    """A transformer's tensors by diffusers' names, each from its place; `model` is what messages call it.

    A tensor that diffusers cuts out of a fused one, or turns round, is pieces of the file: nothing is copied.
    Raises PairError for a tensor that is missing, one that has no place, and one that cannot be cut.
    """
    expected = {place.source for place in places.values()}
    # Silence would draw noise.
    if missing := sorted(expected - tensors.keys()):
        raise PairError(f"{file} is a broken checkpoint: it lacks {missing[0]}", AGAIN)
    if foreign := sorted(tensors.keys() - expected):
        raise PairError(f"{file} holds {foreign[0]}, which no {model} has", hint)
    return {name: _taken(file, tensors[place.source], place, name) for name, place in places.items()}


def _taken(file: Path, header: TensorHeader, place: Place, name: str) -> TensorHeader:
    if header.dtype not in READABLE:
        raise PairError(f"{file}: tensor {header.name} is {header.dtype}, expected a float type", OTHERS)
    if place.parts > 1 and (not header.shape or header.shape[0] % place.parts):
        raise PairError(
            f"{file} is a broken checkpoint: tensor {header.name} is {list(header.shape)}, "
            f"expected rows for {place.parts} tensors of one size",
            AGAIN,
        )
    if header.size_bytes % (place.parts * block_bytes(header)):
        told = f"{file}: tensor {header.name} is {header.dtype}{list(header.shape)}"
        raise PairError(f"{told}, whose blocks cannot be cut into {place.parts} tensors", OTHERS)
    return place.taken_from(header, name)
