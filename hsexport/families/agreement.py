"""Parts that both members of a pair bring, compared one with the other: large's first, small's second."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.quantised import scale_of
from hsexport.checkpoints.shards import TensorHeader, chunks_of, has_weights, read_headers
from hsexport.families.pair import Pair, parts_of_both
from hsexport.progress import OnBytes

# Who wrote a file, with what, and in which precision: none of it changes what an encoder computes.
WRITER = frozenset({"architectures", "dtype", "torch_dtype", "transformers_version"})
ONE_FAMILY = "take both members from one model family"


def check_documents_agree(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Refuses text encoders of different configuration; a setting only one file spells out is left to the weights."""
    spelled = [key for key in ours if key in theirs and key not in WRITER and not key.startswith("_")]
    ours, theirs = ({key: document[key] for key in spelled} for document in (ours, theirs))
    check_settings_agree(name, ours, theirs, f"both must read the same text: {ONE_FAMILY}")


def check_settings_agree(parts: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], hint: str) -> None:
    """Refuses parts that differ in a setting; a missing one counts as null."""
    key = first_difference(ours, theirs)
    if key is not None:
        raise PairError(f"{parts} of large and small differ in {key}: {ours.get(key)} and {theirs.get(key)}", hint)


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """The first key, in alphabetical order, whose values differ; a missing one counts as null."""
    return next((key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)), None)


def check_tensors_agree(name: str, large: Path, small: Path) -> None:
    """Refuses weights of other names, types or shapes, by headers alone; same_weights reads the rest."""
    ours, theirs = (
        {key: (header.dtype, header.shape) for key, header in read_headers(path).items()} for path in (large, small)
    )
    tensor = first_difference(ours, theirs)
    if tensor is not None:
        found = f"{in_words(ours.get(tensor))} and {in_words(theirs.get(tensor))}"
        raise PairError(
            f"{name} of large and small differ in their weights: tensor {tensor} is {found}",
            hint_for(name, small),
        )


def in_words(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    """`F16[8, 4]`, or `absent`."""
    return f"{tensor[0]}{list(tensor[1])}" if tensor else "absent"


def hint_for(name: str, small: Path) -> str:
    """What to do about a part that both bring in different versions."""
    shares = "one latent space" if name == "vae" else "one text side"
    return (
        f"a pair shares {shares}: {ONE_FAMILY}; if they are one model in two precisions, "
        f"give small's transformer alone: --small {small.parent / 'transformer'}"
    )


def check_same_weights(pair: Pair, without: Collection[str] = (), on_bytes: OnBytes | None = None) -> None:
    """Reads the VAE and the text encoders that lie in two places, but for the parts in `without`.

    Raises PairError with the first tensor whose numbers differ.
    """
    twins, done = list(_twins(pair, without)), 0
    total = sum(ours.size_bytes for _, ours, _ in twins)
    for part, ours, theirs in twins:
        if not _are_same(ours, theirs):
            raise PairError(
                f"{part} of large and small differ in their weights: tensor {ours.name} holds other numbers in each",
                hint_for(part, parts_of_both(pair.large, pair.small)[part][1]),
            )
        done += ours.size_bytes
        if on_bytes:
            on_bytes(done, total)


def _twins(pair: Pair, without: Collection[str]) -> Iterator[tuple[str, TensorHeader, TensorHeader]]:
    """Part, large's tensor and small's, in the order in which large's lie on the disk."""
    both = parts_of_both(pair.large, pair.small)
    # A tokenizer and a scheduler have no weights.
    for part in (name for name in both if name not in without and has_weights(both[name][0])):
        ours, theirs = map(read_headers, both[part])
        for header in sorted(ours.values(), key=lambda header: (header.file, header.pieces)):
            yield part, header, theirs[header.name]


def _are_same(ours: TensorHeader, theirs: TensorHeader) -> bool:
    """One file under two names is not read."""
    if ours.file.samefile(theirs.file) and ours.pieces == theirs.pieces:
        return True
    if scale_of(ours) != scale_of(theirs):
        return False
    return all(a == b for a, b in zip(chunks_of(ours), chunks_of(theirs), strict=True))
