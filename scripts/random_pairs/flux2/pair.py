"""FLUX.2's pairs: a whole pipeline, and a transformer with a text encoder of its own beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel

from random_pairs.family import Contents, Family
from random_pairs.flux2.shapes import KLEIN_4B, KLEIN_9B, TRANSFORMERS, MemberShape
from random_pairs.flux2.text_side import new_qwen3, new_qwen_tokenizer

TAKEN = 3
"""Layers of the text encoder whose states the transformer reads side by side."""


@dataclass(frozen=True)
class PairShape:
    """A pair and the widths of the VAE that it shares, which else is AutoencoderKLFlux2 at its defaults."""

    name: str
    large: MemberShape
    small: MemberShape
    vae_widths: tuple[int, ...] = (128, 256, 512, 512)

    def transformer(self, role: str) -> dict[str, Any]:
        """Flux2Transformer2DModel's arguments for "large" or "small", where they are not its defaults."""
        shape: MemberShape = getattr(self, role)
        return {
            "num_layers": shape.layers,
            "num_single_layers": shape.single_layers,
            "num_attention_heads": shape.heads,
            "attention_head_dim": shape.head_size,
            "axes_dims_rope": (shape.head_size // 4,) * 4,
            "joint_attention_dim": TAKEN * shape.text.width,
            "guidance_embeds": False,
        }

    def contents(self) -> Contents:
        """Both members' transformers and text sides, and what they share beside large's."""
        tokenizer = new_qwen_tokenizer()
        return Contents(
            networks={
                "large/transformer": lambda: Flux2Transformer2DModel(**self.transformer("large")),
                "small/transformer": lambda: Flux2Transformer2DModel(**self.transformer("small")),
                "large/text_encoder": lambda: new_qwen3(self.large.text, tokenizer),
                "small/text_encoder": lambda: new_qwen3(self.small.text, tokenizer),
                "large/vae": lambda: new_vae(self.vae_widths),
            },
            others={
                "large/scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
                "large/tokenizer": tokenizer,
                "small/tokenizer": tokenizer,
            },
            index={"_class_name": "Flux2KleinPipeline", "is_distilled": False},
        )

    def cut(self, layers: int | None) -> Self:
        """The same with at most `layers` blocks of either kind in each transformer."""
        if layers is None:
            return self
        return replace(self, name=f"{self.name}-{layers}", large=self.large.cut(layers), small=self.small.cut(layers))


def new_vae(widths: tuple[int, ...]) -> AutoencoderKLFlux2:
    """FLUX.2's VAE: 32 channels, each side an eighth, and a patch of 2x2 of them a token."""
    return AutoencoderKLFlux2(block_out_channels=widths, norm_num_groups=min(32, min(widths)))


def _named(large: str, small: str, *, tiny_text: bool) -> PairShape:
    shape = PairShape(f"{large}-{small}", TRANSFORMERS[large], TRANSFORMERS[small])
    return replace(shape, large=shape.large.tiny(), small=shape.small.tiny()) if tiny_text else shape


KLEIN = PairShape("klein", KLEIN_9B, KLEIN_4B)
FLUX2 = Family(tuple(TRANSFORMERS), _named)
