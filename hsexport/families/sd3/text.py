"""The SD3 text side: which encoders a pair has, how long they read, and what joins their answers."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

from hsexport.checkpoints.documents import AGAIN, PairError, read_document
from hsexport.checkpoints.tokenizers import pad_id_of
from hsexport.families.pair import Pair
from hsexport.families.sd3.parts import T5_LENGTH, TEXT_ENCODERS, EncoderConfig
from hsruntime.facts import TextSide, TextSlot

ANSWERS = {"clip": ("states", "pooled"), "t5": ("states",)}


def encoders_of(pair: Pair) -> list[EncoderConfig]:
    """Those that the pair has, in the order in which they are joined."""
    return [pair.parts[name] for name in TEXT_ENCODERS if name in pair.parts]


def text_side(pair: Pair, without: Collection[str], longest: int | None) -> TextSide:
    """The one side that both members read. T5's tokens stay, as zeros, where the build or the pair leaves it out.

    longest: T5's tokens, diffusers' max_sequence_length; None for as many as its tokenizer states.
    """
    encoders = encoders_of(pair)
    lengths = {encoder.name: _length(pair, encoder) for encoder in encoders}
    if longest is not None and "text_encoder_3" in lengths:
        lengths["text_encoder_3"] = longest
    slots = [
        TextSlot(
            engine=encoder.name,
            tokenizer=f"tokenizers/{TEXT_ENCODERS[encoder.name][0]}.json",
            length=lengths[encoder.name],
            pad_id=pad_id_of(_tokenizer(pair, encoder), encoder.vocabulary),
            into={answer: f"{answer}_{number}" for answer in ANSWERS[encoder.kind]},
            in_loras=(
                f"{encoder.name}.",
                f"lora_te{list(TEXT_ENCODERS).index(encoder.name) + 1}_",
            ),  # diffusers', kohya's
        )
        for number, encoder in enumerate(encoders, start=1)
        if encoder.name not in without
    ]
    t5 = lengths.get("text_encoder_3", T5_LENGTH)
    return TextSide(join="join_text", tokens=lengths["text_encoder"] + t5, encoders=slots)


def _tokenizer(pair: Pair, encoder: EncoderConfig) -> Path:
    return pair.shared[TEXT_ENCODERS[encoder.name][0]]


def _length(pair: Pair, encoder: EncoderConfig) -> int:
    """The tokens that an encoder reads of every prompt; the tokenizer's limit may be 1e30, which stands for none."""
    tokenizer = _tokenizer(pair, encoder)
    found = read_document(tokenizer / "tokenizer_config.json").get("model_max_length")
    if found is None:
        return encoder.longest
    if not isinstance(found, int | float) or isinstance(found, bool) or not 1 <= found < math.inf:
        where = f"{tokenizer}/tokenizer_config.json"
        raise PairError(f"{where} has model_max_length {found!r}, expected a number of tokens", AGAIN)
    return min(encoder.longest, int(found))
