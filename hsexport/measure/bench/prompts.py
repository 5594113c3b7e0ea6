"""Which prompts are drawn, and from which noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hsengines.errors import HSError


class PromptError(HSError):
    """No prompts, or none that can be read."""


@dataclass(frozen=True)
class Prompt:
    """A prompt and its place in its list, which seeds its noise."""

    seed: int
    text: str


def spread(texts: Sequence[str], count: int) -> list[Prompt]:
    """`count` prompts, or all if there are fewer, at even distances through the list."""
    if count < 1:
        raise PromptError(f"{count} prompts are too few", "ask for 1 or more")
    picks = np.linspace(0, len(texts) - 1, min(count, len(texts))).round().astype(int)
    return [Prompt(int(pick), texts[pick]) for pick in picks]


def prompts_from_file(file: Path) -> list[str]:
    """One prompt a line; blank lines are skipped."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as err:
        raise PromptError(f"{file} is not text in UTF-8: {err.reason} at byte {err.start}") from err
    found = [line for line in lines if line]
    if not found:
        raise PromptError(f"{file} holds no prompt", "write one a line")
    return found
