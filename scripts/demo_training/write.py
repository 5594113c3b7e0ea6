"""The pair as two diffusers pipelines' worth of directories, fp16, shared parts once: written, and read again."""

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


def read_pair(
    folder: Path, device: str
) -> tuple[AutoencoderKL, TextSide, SD3Transformer2DModel, SD3Transformer2DModel]:
    """What `write_pair` wrote, in fp32: VAE, text side, large, small."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder / "large", torch_dtype=torch.float32).to(device)
    small = SD3Transformer2DModel.from_pretrained(folder / "small" / "transformer", torch_dtype=torch.float32)
    parts = [(getattr(pipeline, f"tokenizer{n}"), getattr(pipeline, f"text_encoder{n}")) for n in ("", "_2", "_3")]
    text = TextSide([tokenizer for tokenizer, _ in parts], torch.nn.ModuleList(encoder for _, encoder in parts))
    return pipeline.vae, text, pipeline.transformer, small.to(device)
