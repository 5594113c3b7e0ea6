"""The FLUX.2 text sides: Qwen3 behind its chat template, cut and padded to one length."""

from __future__ import annotations

from hsexport.checkpoints.tokenizers import chat_template_of, pad_id_of
from hsexport.families.flux2.parts import TAKEN, EncoderConfig
from hsruntime.facts import TextSide, TextSlot

LENGTH = 512
"""Flux2KleinPipeline's max_sequence_length."""
IN_LORAS = ("text_encoder.", "lora_te_", "lora_te1_")
"""Diffusers', kohya's; each member's file is for its own encoder."""
TEMPLATE = {"add_generation_prompt": True, "enable_thinking": False}
"""What the pipeline renders a prompt with."""


def engine_of(side: str) -> str:
    """The text encoder's name in the bundle: `text_encoder` or `small_text_encoder`."""
    return f"{side}_encoder"


def side_of(slot: TextSlot) -> str:
    """Whose the encoder is."""
    return slot.engine.removesuffix("_encoder")


def join_of(side: str) -> str:
    """The join's."""
    return f"join_{side}"


def states_of(number: int) -> str:
    """What the encoder answers behind so many layers."""
    return f"states_{number}"


def text_side(side: str, encoder: EncoderConfig, longest: int | None) -> TextSide:
    """One encoder; longest: diffusers' max_sequence_length."""
    length = longest or LENGTH
    before, behind = chat_template_of(encoder.tokenizer, **TEMPLATE)
    slot = TextSlot(
        engine=engine_of(side),
        tokenizer=f"tokenizers/{side}.json",
        length=length,
        pad_id=pad_id_of(encoder.tokenizer, encoder.shape.vocab_size),
        before=before,
        behind=behind,
        into={states_of(number): states_of(number) for number in TAKEN},
        in_loras=IN_LORAS,
    )
    return TextSide(join=join_of(side), tokens=length, encoders=[slot])
