"""Tokenizers without a training text, and text encoders of any width over them."""

from __future__ import annotations

from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

START, END = "<|startoftext|>", "<|endoftext|>"


def new_clip_tokenizer(pad: str, length: int) -> CLIPTokenizer:
    """One token a byte; the end id is not 2, which would mean "the highest id" to transformers."""
    letters = [letter for letter in sorted(ByteLevel.alphabet()) if letter != "!"]
    pieces = ["!", END, START, *letters, "!</w>", *(letter + "</w>" for letter in letters)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], pad_token=pad, model_max_length=length)


def new_t5_tokenizer(length: int) -> T5Tokenizer:
    """One token a character, and the word mark."""
    letters = [(chr(code), -3.0) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)


def new_clip(
    width: int, projection: int, tokenizer: CLIPTokenizer, *, layers: int = 2, heads: int = 2, growth: int = 2
) -> CLIPTextModelWithProjection:
    """A CLIP text encoder as long as its tokenizer's texts; its feed-forward is `growth` times as wide."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=growth * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=projection,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_t5(
    width: int, tokenizer: T5Tokenizer, *, layers: int = 2, heads: int = 2, head_size: int = 8, inner: int | None = None
) -> T5EncoderModel:
    """A T5 encoder; `inner` is its feed-forward's width, twice `width` if left out."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=head_size,
            d_ff=inner or 2 * width,
            num_layers=layers,
            num_heads=heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )
