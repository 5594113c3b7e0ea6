"""The SD3.5 pair's shapes, as diffusers' configurations have them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

HEAD_SIZE = 64


@dataclass(frozen=True)
class TransformerShape:
    """What differs between members; the rest is `PairShape`'s."""

    layers: int
    heads: int
    position_table: int
    dual_attention_layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class PairShape:
    """A pair and the parts it shares; text encoders have real widths and few layers."""

    name: str
    large: TransformerShape
    small: TransformerShape
    sample_size: int = 128
    text_width: int = 4096
    clip_widths: tuple[int, int] = (768, 1280)
    text_layers: int = 2
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
            "joint_attention_dim": self.text_width,
            "caption_projection_dim": shape.heads * HEAD_SIZE,
            "pooled_projection_dim": sum(self.clip_widths),
            "pos_embed_max_size": shape.position_table,
            "qk_norm": "rms_norm",
            "dual_attention_layers": shape.dual_attention_layers,
        }

    def cut(self, layers: int | None) -> PairShape:
        """The same with at most `layers` layers in each transformer."""
        if layers is None:
            return self
        return replace(
            self, name=f"{self.name}-{layers}", large=_cut(self.large, layers), small=_cut(self.small, layers)
        )


def _cut(shape: TransformerShape, layers: int) -> TransformerShape:
    kept = tuple(layer for layer in shape.dual_attention_layers if layer < layers)
    return replace(shape, layers=min(layers, shape.layers), dual_attention_layers=kept)


# Source: transformer/config.json of stabilityai/stable-diffusion-3.5-large and of -medium.
SD35 = PairShape(
    "sd35",
    large=TransformerShape(layers=38, heads=38, position_table=192),
    small=TransformerShape(layers=24, heads=24, position_table=384, dual_attention_layers=tuple(range(13))),
)
