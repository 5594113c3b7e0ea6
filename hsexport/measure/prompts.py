"""Which prompts are drawn, and from which noise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from hsengines.errors import HSError
from hsruntime.bundle.manifest import Manifest

PROMPT = "red apple"  # of measurements that look at no picture
DEMO_CAPTIONS = Path(__file__).parents[1] / "demo" / "captions.json"


class PromptError(HSError):
    """No prompts, or none that can be read."""


@dataclass(frozen=True)
class Prompt:
    """A prompt and its place in its list, which seeds its noise."""

    seed: int
    text: str


def is_demo(manifest: Manifest) -> bool:
    """Whether the bundle was built from the pair that ships with the package."""
    return all(member.source == "demo" for member in manifest.facts.members.values())


def prompts_for(manifest: Manifest, file: Path | None, count: int, captions: Path | None = None) -> list[Prompt]:
    """At most `count` prompts of a file, else of the demo pair's own, else of `captions`. Raises PromptError."""
    if file:
        return spread(lines_of(file), count)
    listed = DEMO_CAPTIONS if is_demo(manifest) else captions
    if not (listed and listed.is_file()):
        raise PromptError("this pair brings no prompts of its own", "give --prompt-file, a text with one prompt a line")
    return spread(names_from(listed), count)


def spread(texts: Sequence[str], count: int) -> list[Prompt]:
    """`count` prompts, or all if there are fewer, at even distances through the list."""
    if count < 1:
        raise PromptError(f"{count} prompts are too few", "ask for 1 or more")
    picks = np.linspace(0, len(texts) - 1, min(count, len(texts))).round().astype(int)
    return [Prompt(int(pick), texts[pick]) for pick in picks]


def shuffled(prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """In an order, always the same, whose beginnings are spread through the list as well."""
    return tuple(prompts[i] for i in np.random.default_rng(0).permutation(len(prompts)))


def lines_of(file: Path, what: str = "prompt") -> list[str]:
    """A file's prompts, or schedules, one a line; blank lines are skipped."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as err:
        raise PromptError(f"{file} is not text in UTF-8: {err.reason} at byte {err.start}") from err
    found = [line for line in lines if line]
    if not found:
        raise PromptError(f"{file} holds no {what}", "write one a line")
    return found


def names_from(file: Path) -> list[str]:
    """A JSON file's list of strings. Raises PromptError."""
    try:
        return msgspec.convert(json.loads(file.read_bytes()), list[str])
    except (msgspec.ValidationError, ValueError) as err:
        raise PromptError(f"{file} is not a list of names in JSON: {err}") from err
