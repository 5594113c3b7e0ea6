"""Prompts to what the transformers are conditioned on, through the text encoders' engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from hsengines.backend import Device, Engine, Tensor
from hsengines.dtypes import numpy_dtype
from hsengines.spec import EngineSpec
from hsruntime.bundle.reader import Bundle
from hsruntime.loop.buffers import Conditioning
from hsruntime.text.tokenize import PromptTokenizer, warn_of_cuts


class TextSide(Protocol):
    """What fills one conditioning; made with a loop, used for each of its pictures."""

    def encode(self, prompts: list[str]) -> None:
        """Fills the conditioning's rows from as many prompts. Warns with PromptCutWarning of what does not fit."""

    def close(self) -> None:
        """Frees what it holds on the device."""


def tokenizers_of(bundle: Bundle) -> list[PromptTokenizer]:
    """The bundle's tokenizers, in the order of its text encoders."""
    return [PromptTokenizer(bundle.file(e.tokenizer), e) for e in bundle.manifest.facts.slots]


class BoundText:
    """Encoder engines bound to write into one conditioning: a text side whose engines stay open."""

    def __init__(
        self, tokenizers: list[PromptTokenizer], engines: Mapping[str, Engine], device: Device, into: Conditioning
    ) -> None:
        self._tokenizers = tokenizers
        rows, join = into.text.shape[0], engines["join_text"]
        self._encoders = [BoundEncoder(t, engines[t.encoder.engine], device, rows) for t in tokenizers]
        states = joined_states(tokenizers, [e.outputs for e in self._encoders], join.spec, device, rows)
        self._join = join.bind(states, into.named)

    def encode(self, prompts: list[str]) -> None:
        """Fills the conditioning's rows from as many prompts. Warns with PromptCutWarning of what does not fit."""
        warn_of_cuts(self._tokenizers, prompts)
        for encoder in self._encoders:
            encoder.encode(prompts)
        self._join.enqueue()

    def close(self) -> None:
        """Frees the bindings."""
        self._join.close()
        while self._encoders:
            self._encoders.pop().close()


class BoundEncoder:
    """One encoder bound to ids and to answers of its own."""

    def __init__(self, tokenizer: PromptTokenizer, engine: Engine, device: Device, rows: int) -> None:
        self.outputs = {t.name: device.empty(t.resolve({"B": rows}), t.dtype) for t in engine.spec.outputs}
        self._tokenizer = tokenizer
        self._ids = device.empty((rows, tokenizer.encoder.length), "int32")
        self._binding = engine.bind({"ids": self._ids}, self.outputs)

    def encode(self, prompts: list[str]) -> None:
        """Enqueues the encoder over as many prompts as there are rows."""
        self._ids.write(self._tokenizer.ids(prompts))
        self._binding.enqueue()

    def close(self) -> None:
        """Frees the binding."""
        self._binding.close()


def joined_states(
    tokenizers: list[PromptTokenizer],
    answers: list[dict[str, Tensor]],
    join: EngineSpec,
    device: Device,
    rows: int,
) -> dict[str, Tensor]:
    """The encoders' answers, named as the join takes them; zeros where no encoder answers."""
    states: dict[str, Tensor] = {}
    for tokenizer, answer in zip(tokenizers, answers, strict=True):
        states |= {tokenizer.encoder.into[name]: tensor for name, tensor in answer.items()}
    for spec in join.inputs:
        if spec.name not in states:
            states[spec.name] = device.upload(np.zeros(spec.resolve({"B": rows}), numpy_dtype(spec.dtype)))
    return states
