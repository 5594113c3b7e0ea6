"""Prompts to what the transformers are conditioned on, through the text encoders' engines."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import closing

import numpy as np

from hsengines.backend import Binding, Engine
from hsengines.device import Device, Tensor
from hsengines.spec import EngineSpec, TensorSpec, numpy_dtype
from hsruntime.bundle.manifest import Manifest
from hsruntime.bundle.reader import Bundle
from hsruntime.facts import Facts, TextSide
from hsruntime.text.tokenize import PromptRow, PromptTokenizer

Conditioning = dict[str, Tensor]
"""What the prompts became, on the device, by name: rows of negative prompts, then rows of prompts; without guidance
prompts only."""


class TextEmbeddings(dict[str, np.ndarray]):
    """The same on the host, for callers who keep it or make it elsewhere, each tensor by name.

    float32 whatever the engines take: the way there and back is exact for each of their types.
    """

    def __init__(self, **arrays: np.ndarray) -> None:
        super().__init__(arrays)

    def __getattr__(self, name: str) -> np.ndarray:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there are no embeddings '{name}', there are {list(self)}") from None

    @property
    def rows(self) -> int:
        """G."""
        return len(next(iter(self.values())))


def text_sides(facts: Facts) -> dict[str, TextSide]:
    """The text sides that the pair reads, by how the names of their tensors begin: small's own, if it has one."""
    small = facts.small
    own = {"small_": facts.text[small.text]} if small and small.text != facts.large.text else {}
    return {"": facts.text[facts.large.text], **own}


def conditioning_specs(facts: Facts, specs: Mapping[str, EngineSpec]) -> dict[str, TensorSpec]:
    """What the sides' joins answer, rows B; `specs` are those of a bundle's engines."""
    sides = text_sides(facts).items()
    return {start + spec.name: spec for start, side in sides for spec in specs[side.join].outputs}


def empty_conditioning(device: Device, manifest: Manifest, rows: int) -> Conditioning:
    """Uninitialised."""
    specs = conditioning_specs(manifest.facts, manifest.specs).items()
    return {name: device.empty(spec.resolve({"B": rows}), spec.dtype) for name, spec in specs}


def embeddings_of(conditioning: Conditioning) -> TextEmbeddings:
    """All rows on the host."""
    return TextEmbeddings(**{name: tensor.read().astype(np.float32) for name, tensor in conditioning.items()})


def tokenizers_of(bundle: Bundle) -> list[PromptTokenizer]:
    """The bundle's tokenizers, in the order of its text encoders, of which sides may share some."""
    sides = bundle.manifest.facts.text.values()
    placed = {slot.engine: (slot, place) for side in sides for place, slot in enumerate(side.encoders)}
    return [PromptTokenizer(bundle.file(slot.tokenizer), slot, place) for slot, place in placed.values()]


class BoundText:
    """Encoder engines bound to write into one conditioning, for as long as they are open."""

    def __init__(
        self,
        facts: Facts,
        tokenizers: list[PromptTokenizer],
        engines: Mapping[str, Engine],
        device: Device,
        into: Conditioning,
    ) -> None:
        rows = _rows(into)
        self._encoders = [BoundEncoder(t, engines[t.encoder.engine], device, rows) for t in tokenizers]
        answers = {t.encoder.engine: bound.outputs for t, bound in zip(tokenizers, self._encoders, strict=True)}
        sides = text_sides(facts).items()
        self._joins = [_bound_join(side, start, answers, engines[side.join], device, into) for start, side in sides]

    def encode(self, prompts: list[PromptRow]) -> None:
        """Fills the conditioning's rows from as many prompts."""
        for encoder in self._encoders:
            encoder.encode(prompts)
        for join in self._joins:
            join.enqueue()

    def close(self) -> None:
        """Frees the bindings."""
        for bound in (self._joins, self._encoders):
            while bound:
                bound.pop().close()


class BoundEncoder:
    """One encoder bound to ids and to answers of its own."""

    def __init__(self, tokenizer: PromptTokenizer, engine: Engine, device: Device, rows: int) -> None:
        self.outputs = {t.name: device.empty(t.resolve({"B": rows}), t.dtype) for t in engine.spec.outputs}
        self._tokenizer = tokenizer
        self._ids = device.empty((rows, tokenizer.encoder.length), "int32")
        self._binding = engine.bind({"ids": self._ids}, self.outputs)

    def encode(self, prompts: list[PromptRow]) -> None:
        """Enqueues the encoder over as many prompts as there are rows."""
        self._ids.write(self._tokenizer.ids(prompts))
        self._binding.enqueue()

    def close(self) -> None:
        """Frees the binding."""
        self._binding.close()


class TextOnDemand:
    """Opens one encoder after the other, each closed before the next, and keeps what the last prompts became.

    For devices short of memory.
    """

    def __init__(self, manifest: Manifest, tokenizers: list[PromptTokenizer], device: Device) -> None:
        self._tokenizers = tokenizers
        self._manifest = manifest
        self._device = device
        self._last: tuple[Hashable, Conditioning] | None = None

    @property
    def engines(self) -> set[str]:
        """Names of the engines that are opened here, and nowhere else."""
        joins = {side.join for side in text_sides(self._manifest.facts).values()}
        return {t.encoder.engine for t in self._tokenizers} | joins

    def encoded(self, prompts: list[PromptRow], load: Callable[[str], Engine], weights: Hashable = ()) -> Conditioning:
        """What the prompts became; nothing is opened for those of the call before. Raises EngineLoadError.

        `load` opens an engine by its name, `weights` tells those of its encoders from all others.
        """
        asked = weights, tuple(prompts)
        if self._last is None or self._last[0] != asked:
            self._last = None  # its memory is free for the next
            self._last = asked, self._encode(prompts, load)
        return self._last[1]

    def _encode(self, prompts: list[PromptRow], load: Callable[[str], Engine]) -> Conditioning:
        answers = {t.encoder.engine: self._answer(t, prompts, load) for t in self._tokenizers}
        result = empty_conditioning(self._device, self._manifest, len(prompts))
        for start, side in text_sides(self._manifest.facts).items():
            with (
                closing(load(side.join)) as join,
                closing(_bound_join(side, start, answers, join, self._device, result)) as bound,
            ):
                bound.enqueue()
                self._device.synchronize()
        return result

    def _answer(
        self, tokenizer: PromptTokenizer, prompts: list[PromptRow], load: Callable[[str], Engine]
    ) -> dict[str, Tensor]:
        """All that the encoder answers; its engine is open in here alone."""
        with (
            closing(load(tokenizer.encoder.engine)) as engine,
            closing(BoundEncoder(tokenizer, engine, self._device, len(prompts))) as bound,
        ):
            bound.encode(prompts)
            self._device.synchronize()  # an engine must not be closed while it runs
            return bound.outputs


def _rows(conditioning: Conditioning) -> int:
    return next(iter(conditioning.values())).shape[0]


def _bound_join(
    side: TextSide,
    start: str,
    answers: Mapping[str, Mapping[str, Tensor]],
    join: Engine,
    device: Device,
    into: Conditioning,
) -> Binding:
    """The side's join over what its encoders answer, by engine; zeros where no encoder answers."""
    states = {place: answers[slot.engine][name] for slot in side.encoders for name, place in slot.into.items()}
    for spec in join.spec.inputs:
        if spec.name not in states:
            zeros = np.zeros(spec.resolve({"B": _rows(into)}), numpy_dtype(spec.dtype))
            states[spec.name] = device.upload(zeros)
    return join.bind(states, {spec.name: into[start + spec.name] for spec in join.spec.outputs})
