"""Tokenizers without a training text, and text encoders of any shape over them."""

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

from random_pairs.sd3.shapes import ClipShape, T5Shape

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


def new_clip(shape: ClipShape, tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """A CLIP text encoder as long as its tokenizer's texts."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=shape.vocabulary or len(tokenizer),
            hidden_size=shape.width,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=shape.projection,
            hidden_act=shape.activation,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_t5(shape: T5Shape, tokenizer: T5Tokenizer) -> T5EncoderModel:
    """A T5 encoder."""
    return T5EncoderModel(
        T5Config(
            vocab_size=shape.vocabulary or len(tokenizer),
            d_model=shape.width,
            d_kv=shape.head_size,
            d_ff=shape.inner,
            num_layers=shape.layers,
            num_heads=shape.heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )
