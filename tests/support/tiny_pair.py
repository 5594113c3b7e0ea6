"""A random SD3 pair of a few thousand parameters, written by diffusers and transformers themselves."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

from random_pairs.noise import randomise
from random_pairs.sd3.shapes import ClipShape, T5Shape
from random_pairs.sd3.text_side import END, new_clip, new_clip_tokenizer, new_t5, new_t5_tokenizer

CLIP_LENGTH = 12
T5_LENGTH = 10


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
    clips = [new_clip_tokenizer(END, CLIP_LENGTH), new_clip_tokenizer("!", CLIP_LENGTH)]
    t5 = new_t5_tokenizer(T5_LENGTH) if with_t5 else None
    return {
        "tokenizer": clips[0],
        "tokenizer_2": clips[1],
        "tokenizer_3": t5,
        "text_encoder": randomise(new_clip(ClipShape(12, 8, inner=24), clips[0]), seed + 2),
        "text_encoder_2": randomise(new_clip(ClipShape(20, pooled - 8, inner=40), clips[1]), seed + 3),
        "text_encoder_3": randomise(new_t5(T5Shape(joint, inner=2 * joint), t5), seed + 4) if with_t5 else None,
    }
