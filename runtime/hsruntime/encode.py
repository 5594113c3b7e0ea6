"""Prompts to what the transformers are conditioned on, through the text encoders' engines."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hsengines.backend import Device, Engine, Tensor
from hsruntime.buffers import Conditioning
from hsruntime.bundle import Bundle
from hsruntime.text import PromptTokenizer, warn_of_cuts


class TextSide:
    """Tokenizers and encoder engines of a bundle."""

    def __init__(self, bundle: Bundle, engines: Mapping[str, Engine], device: Device) -> None:
        self._engines = engines
        self._device = device
        encoders = bundle.manifest.text_encoders
        self._tokenizers = [PromptTokenizer(bundle.file(e.tokenizer), e) for e in encoders]

    def encode(self, prompts: list[str], into: Conditioning) -> None:
        """Fills `into`'s rows from as many prompts. Warns with PromptCutWarning of what does not fit."""
        warn_of_cuts(self._tokenizers, prompts)
        states = self._states_without_t5(len(prompts))
        for number, tokenizer in enumerate(self._tokenizers, start=1):
            states |= self._run_encoder(tokenizer, number, prompts)
        join = self._engines["join_text"]
        join.bind(states, {"text": into.text, "pooled": into.pooled}).enqueue()

    def _run_encoder(self, tokenizer: PromptTokenizer, number: int, prompts: list[str]) -> dict[str, Tensor]:
        """One encoder's outputs, named as join_text takes them: states_1, pooled_1, ..."""
        if tokenizer.encoder.kind == "t5":
            number = 3
        engine = self._engines[tokenizer.encoder.engine]
        dims = {"B": len(prompts)}
        outputs = {t.name: self._device.empty(t.resolve(dims), t.dtype) for t in engine.spec.outputs}
        engine.bind({"ids": self._device.upload(tokenizer.ids(prompts))}, outputs).enqueue()
        return {f"{name}_{number}": tensor for name, tensor in outputs.items()}

    def _states_without_t5(self, rows: int) -> dict[str, Tensor]:
        """Zeros in T5's place where a bundle was built without it, as StableDiffusion3Pipeline does."""
        if any(t.encoder.kind == "t5" for t in self._tokenizers):
            return {}
        spec = next(t for t in self._engines["join_text"].spec.inputs if t.name == "states_3")
        return {"states_3": self._device.upload(np.zeros(spec.resolve({"B": rows}), spec.dtype))}
