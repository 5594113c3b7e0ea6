"""A random SD3 pair of a few thousand parameters, written by diffusers and transformers themselves."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

CLIP_LENGTH = 12
T5_LENGTH = 10
START, END = "<|startoftext|>", "<|endoftext|>"


def make_pair(directory: Path, **overrides) -> tuple[Path, Path]:
    """Large, a whole pipeline, and small, a transformer alone; `overrides` reach both."""
    large = make_pipeline(directory / "large", **{"layers": 3, "heads": 3, **overrides})
    small = {"layers": 2, "dual_layers": (0,), "seed": 1, **overrides, "transformer_only": True}
    return large, make_pipeline(directory / "small", **small)


def make_pipeline(
    directory: Path,
    *,
    layers=2,
    heads=2,
    head_size=8,
    patch_size=2,
    channels=4,
    sample_size=8,
    pos_embed_max_size=12,
    joint=32,
    pooled=24,
    qk_norm="rms_norm",
    dual_layers=(),
    shift=3.0,
    seed=0,
    with_t5=True,
    transformer_only=False,
    text_seed=0,
    vae_attention=True,
) -> Path:
    """Writes a pipeline, or its transformer alone in `directory/transformer`; returns `directory`.

    The transformer follows `seed`; VAE, text encoders and tokenizers follow `text_seed` and the widths alone.
    """
    transformer = SD3Transformer2DModel(
        sample_size=sample_size,
        patch_size=patch_size,
        in_channels=channels,
        out_channels=channels,
        num_layers=layers,
        num_attention_heads=heads,
        attention_head_dim=head_size,
        joint_attention_dim=joint,
        caption_projection_dim=heads * head_size,
        pooled_projection_dim=pooled,
        pos_embed_max_size=pos_embed_max_size,
        dual_attention_layers=tuple(dual_layers),
        qk_norm=qk_norm,
    )
    randomise(transformer, seed)
    if transformer_only:
        transformer.save_pretrained(directory / "transformer")
        return directory
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=randomise(new_vae(channels, vae_attention), text_seed + 1),
        **new_text_side(joint, pooled, with_t5, text_seed),
    )
    pipeline.save_pretrained(directory)
    return directory


@torch.no_grad()
def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Draws every parameter: matrices keep a signal's size, norms lie around 1, biases off 0; nothing is trivial."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(noise * parameter[0].numel() ** -0.5)
        else:
            parameter.copy_(noise * 0.1 + float("norm" in name and name.endswith("weight")))
    return module.eval()


def new_vae(channels: int, attention: bool) -> AutoencoderKL:
    """A VAE that halves each side."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=1.5,
        shift_factor=0.06,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=attention,
    )


def new_text_side(joint: int, pooled: int, with_t5: bool, seed: int) -> dict[str, object]:
    """Tokenizers and encoders by the names StableDiffusion3Pipeline gives them."""
    clips = [new_clip_tokenizer(END), new_clip_tokenizer("!")]
    t5 = new_t5_tokenizer() if with_t5 else None
    return {
        "tokenizer": clips[0],
        "tokenizer_2": clips[1],
        "tokenizer_3": t5,
        "text_encoder": randomise(new_clip(12, 8, clips[0]), seed + 2),
        "text_encoder_2": randomise(new_clip(20, pooled - 8, clips[1]), seed + 3),
        "text_encoder_3": randomise(new_t5(joint, t5), seed + 4) if with_t5 else None,
    }


def new_clip_tokenizer(pad: str) -> CLIPTokenizer:
    """One token a byte; the end id is not 2, which would mean "the highest id" to transformers."""
    letters = [letter for letter in sorted(ByteLevel.alphabet()) if letter != "!"]
    pieces = ["!", END, START, *letters, "!</w>", *(letter + "</w>" for letter in letters)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], pad_token=pad, model_max_length=CLIP_LENGTH)


def new_t5_tokenizer() -> T5Tokenizer:
    """One token a character, and the word mark."""
    letters = [(chr(code), -3.0) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=T5_LENGTH)


def new_clip(width: int, projection: int, tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """A CLIP text encoder of two layers and two heads."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=CLIP_LENGTH,
            projection_dim=projection,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_t5(width: int, tokenizer: T5Tokenizer) -> T5EncoderModel:
    """A T5 encoder of two layers and two heads."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=8,
            d_ff=2 * width,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )
