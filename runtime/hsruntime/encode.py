"""Prompts to what the transformers are conditioned on, through the text encoders' engines."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hsengines.backend import Binding, Device, Engine, Tensor
from hsengines.dtypes import numpy_dtype
from hsruntime.buffers import Conditioning
from hsruntime.bundle import Bundle
from hsruntime.text import PromptTokenizer, warn_of_cuts


def tokenizers_of(bundle: Bundle) -> list[PromptTokenizer]:
    """The bundle's tokenizers, in the order of its text encoders."""
    return [PromptTokenizer(bundle.file(e.tokenizer), e) for e in bundle.manifest.text_encoders]


class TextSide:
    """Encoder engines bound to write into one conditioning; made with a loop, used for each of its pictures."""

    def __init__(
        self, tokenizers: list[PromptTokenizer], engines: Mapping[str, Engine], device: Device, into: Conditioning
    ) -> None:
        self._tokenizers = tokenizers
        self._engines = engines
        self._device = device
        rows = into.text.shape[0]
        self._ids: list[Tensor] = []
        self._bindings: list[Binding] = []
        states = self._states_without_t5(rows)
        for number, tokenizer in enumerate(tokenizers, start=1):
            states |= self._bind_encoder(tokenizer, number, rows)
        joined = {"text": into.text, "pooled": into.pooled}
        self._bindings.append(engines["join_text"].bind(states, joined))

    def encode(self, prompts: list[str]) -> None:
        """Fills the conditioning's rows from as many prompts. Warns with PromptCutWarning of what does not fit."""
        warn_of_cuts(self._tokenizers, prompts)
        for tokenizer, ids in zip(self._tokenizers, self._ids, strict=True):
            ids.write(tokenizer.ids(prompts))
        for binding in self._bindings:
            binding.enqueue()

    def close(self) -> None:
        """Frees the bindings."""
        while self._bindings:
            self._bindings.pop().close()

    def _bind_encoder(self, tokenizer: PromptTokenizer, number: int, rows: int) -> dict[str, Tensor]:
        """One encoder's outputs, named as join_text takes them: states_1, pooled_1, ..."""
        if tokenizer.encoder.kind == "t5":
            number = 3
        engine = self._engines[tokenizer.encoder.engine]
        dims = {"B": rows}
        ids = self._device.empty((rows, tokenizer.encoder.length), "int32")
        outputs = {t.name: self._device.empty(t.resolve(dims), t.dtype) for t in engine.spec.outputs}
        self._ids.append(ids)
        self._bindings.append(engine.bind({"ids": ids}, outputs))
        return {f"{name}_{number}": tensor for name, tensor in outputs.items()}

    def _states_without_t5(self, rows: int) -> dict[str, Tensor]:
        """Zeros in T5's place where a bundle was built without it, as StableDiffusion3Pipeline does."""
        if any(t.encoder.kind == "t5" for t in self._tokenizers):
            return {}
        spec = next(t for t in self._engines["join_text"].spec.inputs if t.name == "states_3")
        return {"states_3": self._device.upload(np.zeros(spec.resolve({"B": rows}), numpy_dtype(spec.dtype)))}
