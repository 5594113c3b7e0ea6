"""Text encoders that are open only while they encode, for devices short of memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from hsengines.backend import Device, Engine, Tensor
from hsruntime.bundle.manifest import Manifest
from hsruntime.loop.buffers import Conditioning
from hsruntime.text.encode import BoundEncoder, joined_states
from hsruntime.text.tokenize import PromptTokenizer, warn_of_cuts


@dataclass(frozen=True)
class Encoded:
    """Prompts and what they became, one row each."""

    prompts: tuple[str, ...]
    conditioning: Conditioning


class TextOnDemand:
    """Opens one encoder after the other, each closed before the next, and keeps what the last prompts became.

    `load` opens an engine by its name.
    """

    def __init__(
        self, manifest: Manifest, tokenizers: list[PromptTokenizer], device: Device, load: Callable[[str], Engine]
    ) -> None:
        self.tokenizers = tokenizers
        self._manifest = manifest
        self._device = device
        self._load = load
        self._last: Encoded | None = None

    @property
    def engines(self) -> set[str]:
        """Names of the engines that are opened here, and nowhere else."""
        return {t.encoder.engine for t in self.tokenizers} | {"join_text"}

    def encoded(self, prompts: list[str]) -> Conditioning:
        """What the prompts became; nothing is opened for those of the call before. Raises EngineLoadError."""
        if self._last is None or self._last.prompts != tuple(prompts):
            self._last = None  # its memory is free for the next
            self._last = Encoded(tuple(prompts), self._encode(prompts))
        return self._last.conditioning

    def into(self, conditioning: Conditioning) -> CopiedText:
        """A text side that fills `conditioning`."""
        return CopiedText(self, conditioning)

    def _encode(self, prompts: list[str]) -> Conditioning:
        rows = len(prompts)
        answers = [self._answer(tokenizer, prompts) for tokenizer in self.tokenizers]
        result = Conditioning.empty(self._device, self._manifest, rows)
        with closing(self._load("join_text")) as join:
            states = joined_states(self.tokenizers, answers, join.spec, self._device, rows)
            with closing(join.bind(states, result.named)) as binding:
                binding.enqueue()
                self._device.synchronize()
        return result

    def _answer(self, tokenizer: PromptTokenizer, prompts: list[str]) -> dict[str, Tensor]:
        """States, and of a CLIP the pooled answer; the engine is open in here alone."""
        with (
            closing(self._load(tokenizer.encoder.engine)) as engine,
            closing(BoundEncoder(tokenizer, engine, self._device, len(prompts))) as bound,
        ):
            bound.encode(prompts)
            self._device.synchronize()  # an engine must not be closed while it runs
            return bound.outputs


class CopiedText:
    """Copies into one loop's conditioning what `TextOnDemand` keeps."""

    def __init__(self, text: TextOnDemand, into: Conditioning) -> None:
        self._text = text
        self._into = into

    def encode(self, prompts: list[str]) -> None:
        """Fills the conditioning's rows from as many prompts. Warns with PromptCutWarning of what does not fit."""
        warn_of_cuts(self._text.tokenizers, prompts)
        self._into.copy_from(self._text.encoded(prompts))

    def close(self) -> None:
        """Holds nothing of its own."""
