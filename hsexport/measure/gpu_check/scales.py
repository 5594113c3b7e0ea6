"""Pairs of real sizes that a check can be asked for, beside the demo's, as `scripts/random_pair` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Counts = tuple[tuple[int, int], ...]
"""Numbers in a transformer, by what is cut together, and of how many layers; 1 for what is in none."""


@dataclass(frozen=True)
class Scale:
    """What makes the pair, and what its transformers hold."""

    told: str
    """In the command's help."""
    options: tuple[str, ...]
    """Of `scripts/random_pair`."""
    members: Mapping[str, Counts]
    """By role, position tables aside."""

    def numbers(self, layers: int | None) -> list[int]:
        """In each transformer, cut to so many layers of each kind."""
        return [
            sum(count * min(layers or whole, whole) // whole for count, whole in counts)
            for counts in self.members.values()
        ]


SCALES = {
    "sd35": Scale(
        told="SD3.5's shapes",
        options=("--family", "sd3"),
        members={"large": ((8_056_627_520, 38),), "small": ((2_243_171_520, 24),)},
    ),
    "klein": Scale(
        told="those of FLUX.2's klein-base",
        options=("--family", "flux2"),
        members={
            "large": ((354_418_688, 1), (3_489_665_024, 8), (5_234_497_536, 24)),
            "small": ((195_035_136, 1), (1_226_836_480, 5), (2_453_672_960, 20)),
        },
    ),
}
