"""What a family of pairs brings: names of its transformers, and for a shape everything that is to be written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self


@dataclass(frozen=True)
class Contents:
    """What a pair consists of, by the places in its folder, such as `large/vae`."""

    networks: Mapping[str, Callable[[], Any]]
    """What makes each of them; of its numbers none is read."""
    others: Mapping[str, Any]
    """Tokenizers and schedulers, which write themselves."""
    index: Mapping[str, Any]
    """What large's model_index.json says, its parts aside."""


class PairShape(Protocol):
    """A dataclass, whose fields tell one pair from another."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def cut(self, layers: int | None) -> Self:
        """The same with at most `layers` of each kind of layers in each transformer."""

    def contents(self) -> Contents:
        """All of it."""


@dataclass(frozen=True)
class Family:
    """The transformers that a pair may be made of."""

    transformers: tuple[str, ...]
    """By name; the first two are large and small where nothing else is asked for."""
    pair: Callable[..., PairShape]
    """Of large and small by name; `tiny_text` asks for text encoders as small as the transformers take."""
