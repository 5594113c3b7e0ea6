"""What is to be checked, as it reaches the processes that do the checking."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from msgspec import Struct

Scale = Literal["demo", "sd35"]
PROMPT = "red apple"


class Target(Struct, frozen=True):
    """One bundle to build and measure."""

    backend: str
    precision: str

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"


class Plan(Struct, frozen=True):
    """The same for every target."""

    large: str
    small: str
    scale: Scale
    out: Path
    cache: Path
    size: tuple[int, int] | None = None
    """In pixels; None is what large was trained at."""
    max_batch: int = 1
    steps: int = 28
    ratio: float = 0.3
    rounds: int = 5
    threads: int = 0
    """CPU threads, 0 for all."""

    def bundle_of(self, target: Target) -> Path:
        """Where the target's bundle goes."""
        return self.out / "bundles" / f"{target.backend}-{target.precision}"

    def region(self) -> str:
        """The region policy in a schedule's short form."""
        return f"signal=gap,ratio={self.ratio}"
