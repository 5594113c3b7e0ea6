"""Writes the trained pair as two diffusers pipelines' worth of directories, fp16, shared parts once."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

from .sampling import SHIFT
from .text import TextSide


def write_pair(
    out: Path,
    vae: AutoencoderKL,
    text: TextSide,
    large: SD3Transformer2DModel,
    small: SD3Transformer2DModel,
    captions: list[str],
) -> None:
    """`out/large` is a whole pipeline; `out/small` its transformer alone, so that nothing ships twice."""
    pipeline = StableDiffusion3Pipeline(
        transformer=large,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=vae,
        text_encoder=text.encoders[0],
        tokenizer=text.tokenizers[0],
        text_encoder_2=text.encoders[1],
        tokenizer_2=text.tokenizers[1],
        text_encoder_3=text.encoders[2],
        tokenizer_3=text.tokenizers[2],
    ).to("cpu", torch.float16)
    pipeline.save_pretrained(out / "large")
    small.to("cpu", torch.float16).save_pretrained(out / "small" / "transformer")
    (out / "captions.json").write_text(json.dumps(captions, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
