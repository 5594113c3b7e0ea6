"""SD3's and SD3.5's shapes, as diffusers' and transformers' configurations have them."""

from __future__ import annotations

from dataclasses import dataclass, replace


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


# Sources: transformer/config.json of stabilityai/stable-diffusion-3.5-large, -3.5-medium and -3-medium-diffusers.
SD35_LARGE = TransformerShape(layers=38, heads=38, position_table=192)
SD35_MEDIUM = TransformerShape(layers=24, heads=24, position_table=384, dual_attention_layers=tuple(range(13)))
SD3_MEDIUM = TransformerShape(layers=24, heads=24, position_table=192, qk_norm=None)
NARROW = TransformerShape(layers=24, heads=2, position_table=192)
"""Nobody's: as many tensors as a large one, and next to no numbers."""
TRANSFORMERS = {"sd3.5-large": SD35_LARGE, "sd3.5-medium": SD35_MEDIUM, "sd3-medium": SD3_MEDIUM, "narrow": NARROW}
