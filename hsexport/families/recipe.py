"""What networks are made from: the checked pair, its facts, and the LoRAs to fuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hsengines.spec import DimRange
from hsexport.networks.step_networks import step_networks
from hsruntime.facts import REFERENCE, Facts

if TYPE_CHECKING:
    from hsexport.checkpoints.source import Role
    from hsexport.checkpoints.weights.adapter import Adapter
    from hsexport.families.pair import Pair
    from hsexport.networks.network import Network


@dataclass(frozen=True)
class Recipe:
    """A checked pair with every number the networks and the manifest need."""

    pair: Pair
    facts: Facts
    adapters: Mapping[Role, tuple[Adapter, ...]]
    """What to fuse into each member's weights."""

    def networks(self) -> list[Network]:
        """Every network of a bundle, in the order they are built: the family's, then the step's own."""
        return [*self.pair.family.networks(self), *step_networks(self.facts, self.ranges())]

    def ranges(self) -> dict[str, DimRange]:
        """Extents of every symbolic dimension. Minima are 1: `sizes` bounds what users may ask for."""
        sizes, per_token, scale = self.facts.sizes, self.facts.latent.pixels_per_token, self.facts.latent.vae_scale
        (width, height), (max_width, max_height), batch = sizes.default, sizes.maximum, sizes.max_batch
        steps, most, text = self.facts.defaults.steps, self.facts.most_steps, self.facts.text_tokens
        largest = max_width * max_height // per_token**2
        beside = sizes.references * min(largest, REFERENCE // per_token**2)
        tokens = DimRange(1, width * height // per_token**2, largest + beside)
        cached = max(tokens.maximum, text)
        return {
            "B": DimRange(1, 1, batch),
            "G": DimRange(1, 2, 2 * batch),
            "L": DimRange(1, 2, 2 * batch),
            "N": tokens,
            "M": tokens,
            "R": DimRange(0, tokens.optimum, cached),
            "K": DimRange(1, tokens.optimum, cached),
            "T": DimRange(1, text, text),
            "S": DimRange(1, steps, most),
            "h": DimRange(1, height // scale, max_height // scale),
            "w": DimRange(1, width // scale, max_width // scale),
        }
