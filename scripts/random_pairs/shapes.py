"""SD3's, SD3.5's and FLUX.2's shapes, as diffusers' and transformers' configurations have them."""

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
    qk_norm: str | None = "rms_norm"


@dataclass(frozen=True)
class ClipShape:
    """A CLIP text encoder with its projection; a `vocabulary` of None is its tokenizer's own."""

    width: int
    projection: int
    inner: int
    layers: int = 2
    heads: int = 2
    activation: str = "quick_gelu"
    vocabulary: int | None = None


@dataclass(frozen=True)
class T5Shape:
    """A T5 encoder; a `vocabulary` of None is its tokenizer's own."""

    width: int
    inner: int
    layers: int = 2
    heads: int = 2
    head_size: int = 8
    vocabulary: int | None = None


@dataclass(frozen=True)
class QwenShape:
    """A Qwen3; a `vocabulary` of None is its tokenizer's own. One layer more than FLUX.2 reads, if nobody says more."""

    width: int
    inner: int
    layers: int = 28
    heads: int = 4
    keys: int = 2
    head_size: int = 4
    vocabulary: int | None = None
    tied: bool = True


@dataclass(frozen=True)
class TextShape:
    """The three text encoders."""

    clips: tuple[ClipShape, ClipShape]
    t5: T5Shape


# Sources: text_encoder, text_encoder_2 and text_encoder_3/config.json of stabilityai/stable-diffusion-3.5-large.
REAL_TEXT = TextShape(
    (
        ClipShape(768, 768, inner=3072, layers=12, heads=12, vocabulary=49408),
        ClipShape(1280, 1280, inner=5120, layers=32, heads=20, activation="gelu", vocabulary=49408),
    ),
    T5Shape(4096, inner=10240, layers=24, heads=64, head_size=64, vocabulary=32128),
)
TINY_TEXT = TextShape(
    (
        replace(REAL_TEXT.clips[0], layers=2, vocabulary=None),
        replace(REAL_TEXT.clips[1], layers=2, vocabulary=None),
    ),
    replace(REAL_TEXT.t5, layers=2, vocabulary=None),
)
"""Real widths, so that transformers take them; two layers each, over the letters' vocabularies."""


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


# Sources: transformer/config.json of stabilityai/stable-diffusion-3.5-large, -3.5-medium and -3-medium-diffusers.
SD35_LARGE = TransformerShape(layers=38, heads=38, position_table=192)
SD35_MEDIUM = TransformerShape(layers=24, heads=24, position_table=384, dual_attention_layers=tuple(range(13)))
SD3_MEDIUM = TransformerShape(layers=24, heads=24, position_table=192, qk_norm=None)
NARROW = TransformerShape(layers=24, heads=2, position_table=192)
"""Nobody's: as many tensors as a large one, and next to no numbers."""
TRANSFORMERS = {"sd3.5-large": SD35_LARGE, "sd3.5-medium": SD35_MEDIUM, "sd3-medium": SD3_MEDIUM, "narrow": NARROW}

SD35 = PairShape("sd35", SD35_LARGE, SD35_MEDIUM)


@dataclass(frozen=True)
class KleinShape:
    """A FLUX.2 transformer, and the text encoder that it reads by."""

    layers: int
    single_layers: int
    heads: int
    text: QwenShape
    axes: tuple[int, ...] = (32, 32, 32, 32)
    channels: int = 128
    """Numbers of a token."""
    timestep_channels: int = 256

    def transformer(self) -> dict[str, Any]:
        """Flux2Transformer2DModel's arguments."""
        return {
            "in_channels": self.channels,
            "num_layers": self.layers,
            "num_single_layers": self.single_layers,
            "attention_head_dim": sum(self.axes),
            "num_attention_heads": self.heads,
            "joint_attention_dim": 3 * self.text.width,
            "timestep_guidance_channels": self.timestep_channels,
            "axes_dims_rope": self.axes,
            "guidance_embeds": False,
        }

    def cut(self, layers: int | None, *, tiny_text: bool) -> KleinShape:
        """The same with at most `layers` blocks of each kind, and a text encoder of the same width and little else."""
        most = self.layers + self.single_layers if layers is None else layers
        text = QwenShape(self.text.width, inner=256, head_size=32) if tiny_text else self.text
        return replace(self, layers=min(most, self.layers), single_layers=min(most, self.single_layers), text=text)


# Sources: transformer and text_encoder/config.json of black-forest-labs/FLUX.2-klein-base-9B and -4B.
QWEN3_8B = QwenShape(4096, 12288, layers=36, heads=32, keys=8, head_size=128, vocabulary=151936, tied=False)
QWEN3_4B = QwenShape(2560, 9728, layers=36, heads=32, keys=8, head_size=128, vocabulary=151936)
KLEIN = {
    "klein-9b": KleinShape(layers=8, single_layers=24, heads=32, text=QWEN3_8B),
    "klein-4b": KleinShape(layers=5, single_layers=20, heads=24, text=QWEN3_4B),
}
