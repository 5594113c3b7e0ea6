"""The contract of a model family: everything that a build must ask of it, and nobody else knows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from hsexport.checkpoints.documents import PairError
from hsruntime.facts import Latent, Operations, Sigmas, Sizes, TextSide, TextSlot, Transformer

if TYPE_CHECKING:
    from torch import nn

    from hsexport.checkpoints.shards import Place, TensorHeader
    from hsexport.families.pair import Member, Pair
    from hsexport.families.recipe import Recipe
    from hsexport.networks.network import Network


DEFAULT_STEPS = 28


class Family(ABC):
    """Made anew for each question; holds nothing."""

    name: str
    """As in the registry, and in the manifest for people to read."""
    references: int = 0
    """How many pictures one may be drawn after, if nobody says how many; 0 for a family that knows none."""
    own_parts: tuple[str, ...] = ()
    """Parts that each member brings for itself; all others are shared, and must be the same where both have one."""

    # What lies on disk: configurations and headers, read and checked.

    @abstractmethod
    def read_transformer(self, transformer: Path) -> tuple[Any, dict[str, TensorHeader]]:
        """Configuration and tensors of a folder or a single file, by headers alone, set beside one another.

        The configuration is the family's own record, the tensors' names are those of diffusers. Raises PairError.
        """

    def counts(self, tensor: str) -> bool:
        """Whether a tensor of that name is learned, and counts as parameters."""
        del tensor
        return True

    @abstractmethod
    def check_pair(self, large: Member, small: Member | None, without: Collection[str]) -> Any:
        """The family's own reading of the parts that the two share, or large has alone.

        Raises PairError where they do not fit together. Weights of the parts in `without` need not be there.
        """

    def places(self, config: Any) -> Mapping[str, Place]:
        """Diffusers' names of a transformer's tensors -> where a foreign layout has them, for LoRAs by its names."""
        del config
        return {}

    # What is true of the pair: the runtime reads it as data.

    @abstractmethod
    def latent(self, pair: Pair) -> Latent:
        """The space that both share."""

    @abstractmethod
    def trained_size(self, pair: Pair) -> int:
        """Pixels along the side of the square that large was trained at."""

    @abstractmethod
    def reach(self, pair: Pair) -> int:
        """Pixels along the longest side that the positions of both reach."""

    @abstractmethod
    def transformer(self, member: Member, latent: Latent, sizes: Sizes) -> Transformer:
        """Cache slots, position rule, operation counts, and the text side that the member reads."""

    def light(self, member: Member, large: Transformer, outer: tuple[int, int]) -> Transformer:
        """What `large` comes to with so many of the first and last blocks alone. Raises PairError."""
        operations = self.operations(member, outer)
        if sum(outer) >= large.layers:
            raise PairError(
                f"--light {outer[0]}+{outer[1]} leaves out none of the {large.layers} blocks of {member}", "keep fewer"
            )
        return structs.replace(large, layers=sum(outer), outer=outer, operations=operations)

    def operations(self, member: Member, outer: tuple[int, int] | None = None) -> dict[str, Operations]:
        """A pass of a transformer as the manifest counts it, or of so many of its first and last blocks alone.

        Raises PairError for a family without a light form.
        """
        del outer
        raise PairError(f"{member} is of a family without a light form", "leave --light out")

    @abstractmethod
    def sigmas(self, pair: Pair) -> Sigmas:
        """How noise levels are spaced."""

    def steps(self, pair: Pair) -> int:
        """That a preset has if nobody says how many."""
        del pair
        return DEFAULT_STEPS

    @abstractmethod
    def text_sides(self, pair: Pair, without: Collection[str], longest: int | None) -> dict[str, TextSide]:
        """Every text side by name; members that read the same text share one."""

    # What is built.

    @abstractmethod
    def networks(self, recipe: Recipe) -> list[Network]:
        """Large, small and light where there are such, what conditions the pair, text encoders, joins, the decoder.

        `condition_large` and `condition_small` take `timesteps` (S,) and what the member's text side answers; the
        member's step takes what they answer, and by `step` (1,) knows its row of what has the steps in front. `light`
        steps as large does, and takes what large answers under a name that begins with "residual_". The largest come
        first, so that a doomed build fails early.
        """

    @abstractmethod
    def tokenizer(self, pair: Pair, slot: TextSlot) -> Path:
        """The folder of the tokenizer that a text slot takes."""

    def encoder_tensors(self, pair: Pair, slot: TextSlot) -> tuple[Mapping[str, TensorHeader], Mapping[str, Place]]:
        """A text encoder's tensors by the names that LoRAs have for them, and where files name them otherwise.

        Of an encoder with `in_loras`; its weights are there.
        """
        del pair, slot
        return {}, {}

    # What it is set beside.

    def original(self, member: Member, dtype: Any = None) -> nn.Module:
        """Diffusers' own model of a member with its weights, where there is one; `dtype` is torch's."""
        raise NotImplementedError(f"family {self.name} has no model in diffusers")
