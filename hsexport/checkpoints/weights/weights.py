"""Tensors of a network by the names its module has for them: where each lies, or how it follows from others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from hsexport.checkpoints.documents import AGAIN, PairError, in_few_words
from hsexport.checkpoints.quantised import Quantised, is_quantised, numbers_of, quantised
from hsexport.checkpoints.shards import TensorHeader, digest_of
from hsexport.progress import OnBytes


@dataclass(frozen=True)
class Weight:
    """A tensor whose numbers `read` reads anew each time: nothing of it stays in memory.

    `stored` is where these very numbers lie as one run of bytes, in that type; None if they lie nowhere so.
    `quantised` is what the checkpoint has of them in 8 bits, where `read` gives them dequantised.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    stored: TensorHeader | None = None
    quantised: Quantised | None = None


def stored(header: TensorHeader) -> Weight:
    """A tensor of a checkpoint as it is, in the type that the checkpoint has it in, bfloat16 as ml_dtypes'.

    One that is quantised reads as float32. Reading raises PairError for a type that no network has.
    """
    whole = header if len(header.pieces) == 1 and not is_quantised(header) else None
    return Weight(header.shape, partial(numbers_of, header), whole, quantised(header))


def changed(of: Weight, shape: tuple[int, ...], change: Callable[[np.ndarray], np.ndarray]) -> Weight:
    """What `change` makes of another one, which it must not write to: cropped, permuted, with something added."""
    return Weight(shape, lambda: change(of.read()))


@dataclass(frozen=True)
class Origin:
    """A checkpoint's tensor, whole, behind a weight: its `axes` in this order, one run of numbers."""

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @classmethod
    def as_it_lies(cls, name: str, weight: Weight) -> Origin:
        """Of a weight that is the tensor itself."""
        return cls(name, weight.shape, tuple(range(len(weight.shape))))


@dataclass(frozen=True)
class Weights(Mapping[str, Weight]):
    """Tensors by name; `sources` are the checkpoint's tensors that decide them, `folder` is what messages name.

    `extra` says what else decides them: a crop, the digests of adapters. `origins`: which tensor of the checkpoint,
    before any adapter, a weight is, for adapters that come when the network runs; of a transformer's networks.
    """

    folder: Path
    tensors: Mapping[str, Weight]
    sources: Mapping[str, TensorHeader]
    extra: tuple[str, ...] = field(default=())
    origins: Mapping[str, Origin] = field(default_factory=dict)

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
