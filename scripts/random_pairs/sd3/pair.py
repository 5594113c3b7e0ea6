"""SD3's pairs: a whole pipeline, and a transformer that shares all the rest with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

from random_pairs.family import Contents, Family
from random_pairs.sd3.shapes import (
    REAL_TEXT,
    SD35_LARGE,
    SD35_MEDIUM,
    TINY_TEXT,
    TRANSFORMERS,
    TextShape,
    TransformerShape,
)
from random_pairs.sd3.text_side import END, new_clip, new_clip_tokenizer, new_t5, new_t5_tokenizer

HEAD_SIZE = 64
CLIP_LENGTH, T5_LENGTH = 77, 256  # StableDiffusion3Pipeline's
SHIFT = 3.0


@dataclass(frozen=True)
class PairShape:
    """A pair and the parts it shares."""

    name: str
    large: TransformerShape
    small: TransformerShape
    text: TextShape = TINY_TEXT
    sample_size: int = 128
    vae_widths: tuple[int, ...] = (128, 256, 512, 512)

    def transformer(self, role: str) -> dict[str, Any]:
        """SD3Transformer2DModel's arguments for "large" or "small"."""
        shape: TransformerShape = getattr(self, role)
        return {
            "sample_size": self.sample_size,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "attention_head_dim": HEAD_SIZE,
            "joint_attention_dim": self.text.t5.width,
            "caption_projection_dim": shape.heads * HEAD_SIZE,
            "pooled_projection_dim": sum(clip.projection for clip in self.text.clips),
            "pos_embed_max_size": shape.position_table,
            "qk_norm": shape.qk_norm,
            "dual_attention_layers": shape.dual_attention_layers,
        }

    def contents(self) -> Contents:
        """A whole pipeline, and a transformer alone."""
        clips = [new_clip_tokenizer(END, CLIP_LENGTH), new_clip_tokenizer("!", CLIP_LENGTH)]
        t5 = new_t5_tokenizer(T5_LENGTH)
        return Contents(
            networks={
                "large/transformer": lambda: SD3Transformer2DModel(**self.transformer("large")),
                "small/transformer": lambda: SD3Transformer2DModel(**self.transformer("small")),
                "large/text_encoder": lambda: new_clip(self.text.clips[0], clips[0]),
                "large/text_encoder_2": lambda: new_clip(self.text.clips[1], clips[1]),
                "large/text_encoder_3": lambda: new_t5(self.text.t5, t5),
                "large/vae": lambda: new_vae(self.vae_widths),
            },
            others={
                "large/scheduler": FlowMatchEulerDiscreteScheduler(shift=SHIFT),
                "large/tokenizer": clips[0],
                "large/tokenizer_2": clips[1],
                "large/tokenizer_3": t5,
            },
            index={"_class_name": "StableDiffusion3Pipeline"},
        )

    def cut(self, layers: int | None) -> Self:
        """The same with at most `layers` layers in each transformer."""
        if layers is None:
            return self
        return replace(
            self, name=f"{self.name}-{layers}", large=_cut(self.large, layers), small=_cut(self.small, layers)
        )


def _cut(shape: TransformerShape, layers: int) -> TransformerShape:
    kept = tuple(layer for layer in shape.dual_attention_layers if layer < layers)
    return replace(shape, layers=min(layers, shape.layers), dual_attention_layers=kept)


def new_vae(widths: tuple[int, ...]) -> AutoencoderKL:
    """SD3's VAE: 16 channels, each side an eighth."""
    blocks = len(widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=widths,
        layers_per_block=2,
        latent_channels=16,
        norm_num_groups=min(32, min(widths)),
        sample_size=1024,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def _named(large: str, small: str, *, tiny_text: bool) -> PairShape:
    text = TINY_TEXT if tiny_text else REAL_TEXT
    return PairShape(f"{large}-{small}", TRANSFORMERS[large], TRANSFORMERS[small], text)


SD35 = PairShape("sd35", SD35_LARGE, SD35_MEDIUM)
SD3 = Family(tuple(TRANSFORMERS), _named)
