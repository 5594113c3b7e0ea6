"""All tensors of a network by the names its module has for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from hsexport.checkpoints.errors import PairError
from hsexport.checkpoints.loading import in_few_words
from hsexport.checkpoints.shards import AGAIN, TensorHeader, digest_of
from hsexport.checkpoints.weights.weight import Weight
from hsexport.progress import OnBytes


@dataclass(frozen=True)
class Weights(Mapping[str, Weight]):
    """Tensors by name; `sources` are the checkpoint's tensors that decide them, `folder` is what messages name.

    `extra` says what else decides them: a crop, the digests of adapters.
    """

    folder: Path
    tensors: Mapping[str, Weight]
    sources: Mapping[str, TensorHeader]
    extra: tuple[str, ...] = field(default=())

    def __getitem__(self, name: str) -> Weight:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @cached_property
    def digest(self) -> str:
        """sha256 over every number that was read to make them, and what else decides them."""
        return self.hashed()

    def hashed(self, on_bytes: OnBytes | None = None) -> str:
        """The digest, computed anew and told of; takes as long as the disk does. `digest` keeps it from then on."""
        whole = hashlib.sha256(digest_of(self.sources, on_bytes).encode())
        for fact in self.extra:
            whole.update(fact.encode())
        self.__dict__["digest"] = whole.hexdigest()  # where cached_property looks
        return self.digest

    @property
    def size_bytes(self) -> int:
        """What the checkpoint holds of them."""
        return sum(header.size_bytes for header in self.sources.values())

    def check_fits(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuses a checkpoint that lacks what a module has, or has it in another shape. Raises PairError."""
        missing = sorted(name for name in shapes if name not in self)
        if missing:
            raise PairError(f"{self.folder} is a broken checkpoint: it lacks {in_few_words(missing)}", AGAIN)
        mismatched = sorted(name for name, shape in shapes.items() if self[name].shape != shape)
        if mismatched:
            raise PairError(
                f"{self.folder} is a broken checkpoint: {in_few_words(mismatched)} has another shape than its "
                "config.json says",
                AGAIN,
            )
