"""Prompts to token ids: what fits the encoders, and what had to be cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from hsruntime.bundle.manifest import BundleError
from hsruntime.facts import TextSlot
from hsruntime.telling import warn_caller


class PromptCutWarning(UserWarning):
    """A prompt was longer than an encoder takes; the message says what was lost."""


PromptRow = tuple[str, ...]
"""A prompt as the first text encoder reads it, the second ...; where one is empty or missing, the first stands."""


class PromptTokenizer:
    """One encoder's tokenizer at its fixed length. Raises BundleError for a file that tokenizers refuses.

    place: the encoder's in its text side, from 0.
    """

    def __init__(self, path: Path, encoder: TextSlot, place: int = 0) -> None:
        self.encoder = encoder
        self._place = place
        self._whole = _tokenizer_from_file(path)
        self._whole.no_truncation()
        self._whole.no_padding()
        self._fixed = _tokenizer_from_file(path)
        self._fixed.enable_truncation(encoder.length)
        self._fixed.enable_padding(length=encoder.length, pad_id=encoder.pad_id)

    def ids(self, prompts: list[PromptRow]) -> np.ndarray:
        """Ids (B, length) int32, padded and cut."""
        texts = [self._placed(self.text(row)) for row in prompts]
        return np.array([e.ids for e in self._fixed.encode_batch(texts)], np.int32)

    def text(self, row: PromptRow) -> str:
        """What of a row this encoder reads."""
        own = row[self._place] if self._place < len(row) else ""
        return own or row[0]

    def lost(self, prompt: str) -> tuple[str, int]:
        """The end of `prompt` that does not fit, as written, and the whole number of ids; ("", n) if all fits."""
        whole = self._whole.encode(self._placed(prompt))
        if len(whole.ids) <= self.encoder.length:
            return "", len(whole.ids)
        kept = [span for span in self._fixed.encode(self._placed(prompt)).offsets if span != (0, 0)]
        seen = max((end for _, end in kept), default=0) - len(self.encoder.before)
        return prompt[max(0, seen) :].strip(), len(whole.ids)

    def _placed(self, prompt: str) -> str:
        """In the encoder's chat template, if it has one."""
        return f"{self.encoder.before}{prompt}{self.encoder.behind}"


MOST_BYTES = 128 * 2**20
"""Of a tokenizer's file; the largest in use have some 20 MB."""


def _tokenizer_from_file(path: Path) -> Tokenizer:
    size_bytes = path.stat().st_size if path.is_file() else 0
    if size_bytes > MOST_BYTES:
        told = f"tokenizer '{path}' has {size_bytes} bytes, allowed are {MOST_BYTES}"
        raise BundleError(told, "the bundle was not written by hsexport; build it again")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as err:  # tokenizers raises Exception itself
        raise BundleError(f"tokenizer '{path}' cannot be read: {err}", "build the bundle again") from err


def warn_of_cuts(tokenizers: list[PromptTokenizer], prompts: list[PromptRow]) -> None:
    """Warns of every cut, at the line that called hsruntime."""
    for cut in cuts_of(tokenizers, prompts):
        warn_caller(cut, PromptCutWarning)


def cuts_of(tokenizers: list[PromptTokenizer], prompts: list[PromptRow]) -> Iterator[str]:
    """A line once per text and length: encoders of one length lose the same words."""
    seen: set[tuple[str, int]] = set()
    for row in dict.fromkeys(prompts):
        for tokenizer in tokenizers:
            text, length = tokenizer.text(row), tokenizer.encoder.length
            lost, count = tokenizer.lost(text)
            if lost and (text, length) not in seen:
                seen.add((text, length))
                name = tokenizer.encoder.engine
                yield f"{name} reads {length} of the prompt's {count} tokens and does not see its end: '{lost}'"
