"""Text side of the demo pair: tokenizers trained on the captions, two tiny CLIP encoders and a tiny T5."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

CLIP_LENGTH = 16
T5_LENGTH = 16
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"


@dataclass
class TextSide:
    """Tokenizers and encoders in the order of the pipeline: CLIP, CLIP, T5."""

    tokenizers: list[Any]
    encoders: torch.nn.ModuleList

    def ids(self, prompts: list[str]) -> list[torch.Tensor]:
        """Token ids per encoder, each (B, length) int64, padded and cut as the pipeline does."""
        return [
            tok(prompts, padding="max_length", max_length=tok.model_max_length, truncation=True, return_tensors="pt")
            .input_ids
            for tok in self.tokenizers
        ]  # fmt: skip

    def encode(self, ids: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Text (B, T, Dt) and pooled (B, Dp), joined as StableDiffusion3Pipeline.encode_prompt joins them."""
        clips = [enc(i, output_hidden_states=True) for enc, i in zip(self.encoders[:2], ids[:2], strict=True)]
        t5 = self.encoders[2](ids[2])[0]
        clip = torch.cat([out.hidden_states[-2] for out in clips], dim=-1)
        padded = F.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        return torch.cat([padded, t5], dim=1), torch.cat([out.text_embeds for out in clips], dim=-1)


def train_clip_vocabulary(captions: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-level BPE vocabulary in CLIP's own conventions, and its merges."""
    shell = CLIPTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=1400,
        special_tokens=["!", CLIP_END, CLIP_START],  # an end id of 2 would mean "highest id" to transformers
        end_of_word_suffix="</w>",
        initial_alphabet=[chr(c) for c in range(33, 127)],
        show_progress=False,
    )
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=CLIP_END))
    backend.normalizer = shell.backend_tokenizer.normalizer
    backend.pre_tokenizer = shell.backend_tokenizer.pre_tokenizer
    backend.train_from_iterator(captions, trainer)
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def new_tokenizers(captions: list[str]) -> list[Any]:
    """Two CLIP tokenizers (the second pads with "!", as SD3's does) and a T5 tokenizer."""
    vocab, merges = train_clip_vocabulary(captions)
    clips = [
        CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad, model_max_length=CLIP_LENGTH)
        for pad in (CLIP_END, "!")
    ]
    trainer = trainers.UnigramTrainer(
        vocab_size=1200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = T5Tokenizer(extra_ids=0).backend_tokenizer.pre_tokenizer
    backend.train_from_iterator([*captions, *map(str.lower, captions)], trainer)
    pieces = [tuple(piece) for piece in json.loads(backend.to_str())["model"]["vocab"]]
    return [*clips, T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=T5_LENGTH)]


def new_clip(width: int, projection: int, tokenizer: Any) -> CLIPTextModelWithProjection:
    """A CLIP text encoder of two layers."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=2,
            num_attention_heads=width // 32,
            max_position_embeddings=CLIP_LENGTH,
            projection_dim=projection,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_text_side(captions: list[str], seed: int) -> TextSide:
    """Untrained encoders over freshly trained tokenizers; the same for the same captions and seed."""
    torch.manual_seed(seed)
    tokenizers = new_tokenizers(captions)
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizers[2]),
            d_model=192,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )
    encoders = [new_clip(96, 96, tokenizers[0]), new_clip(96, 96, tokenizers[1]), t5]
    return TextSide(tokenizers, torch.nn.ModuleList(encoders))
