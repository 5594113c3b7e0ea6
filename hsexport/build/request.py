"""What the user asks of a build."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hsengines.build import BuildOptions
from hsengines.errors import HSError
from hsengines.traits import DEFAULT_BACKEND
from hsexport.checkpoints.weights.adapter import AdapterRequest
from hsexport.families.registry import parts_left_out
from hsruntime.facts import Size

StopAfter = Literal["export", "optimise"]
"""Where a build may end early: graphs without their weights, or as the backend takes them."""


class RecipeError(HSError):
    """Build options that do not fit the pair or one another."""


@dataclass(frozen=True)
class BuildRequest:
    """What the user asked `build` for; None means the pair's own default."""

    large: str
    small: str | None
    out: Path
    cache: Path
    backend: str = DEFAULT_BACKEND
    options: BuildOptions = field(default_factory=BuildOptions)
    fp32: tuple[str, ...] = ()
    """What stays in fp32 beside the default fp32 block list: "large:transformer_blocks.35*"."""
    light: tuple[int, int] | None = None
    """How many of large's first and last blocks a light form of it keeps; None for none."""
    lora: tuple[AdapterRequest, ...] = ()
    """Fused into the weights in this order."""
    calibration: Path | None = None
    """What products read while the pair drew, for weights that are quantised."""
    stop_after: StopAfter | None = None
    size: Size | None = None
    min_size: Size | None = None
    max_size: Size | None = None
    max_batch: int = 4
    references: int | None = None
    schedule: str | None = None
    steps: int | None = None
    guidance_scale: float = 3.5
    max_sequence_length: int | None = None
    """Tokens of the encoder that reads most, as diffusers calls it; None for what its tokenizer states."""
    without: tuple[str, ...] = ()
    """What the family lets a build leave out, by its names in the registry."""

    @property
    def parts_left_out(self) -> tuple[str, ...]:
        """Parts whose weights the bundle will not have."""
        return parts_left_out(self.without)
