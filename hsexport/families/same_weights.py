"""Weights that both members bring, compared byte by byte: their headers agree, and a fine-tuned part has the same."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from hsexport.checkpoints.agreement import hint_for
from hsexport.checkpoints.errors import PairError
from hsexport.checkpoints.shards import TensorHeader, chunks_of, holds_weights, read_headers
from hsexport.families.pair import Pair, parts_of_both
from hsexport.progress import OnBytes


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
                hint_for(part, pair.small.directory.parts[part]),
            )
        done += ours.size_bytes
        if on_bytes:
            on_bytes(done, total)


def _twins(pair: Pair, without: Collection[str]) -> Iterator[tuple[str, TensorHeader, TensorHeader]]:
    """Part, large's tensor and small's, in the order in which large's lie on the disk."""
    both = parts_of_both(pair.large, pair.small)
    for part in (name for name in both if name not in without and holds_weights(both[name][0])):
        ours, theirs = map(read_headers, both[part])
        for header in sorted(ours.values(), key=lambda header: (header.file, header.pieces)):
            yield part, header, theirs[header.name]


def _are_same(ours: TensorHeader, theirs: TensorHeader) -> bool:
    """One file under two names is not read."""
    if ours.file.samefile(theirs.file) and ours.pieces == theirs.pieces:
        return True
    return all(a == b for a, b in zip(chunks_of(ours), chunks_of(theirs), strict=True))
