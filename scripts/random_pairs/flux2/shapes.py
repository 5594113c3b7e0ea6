"""The shapes of FLUX.2's klein-base, as diffusers' and transformers' configurations have them."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Qwen3Shape:
    """A Qwen3 of one layer more than are read, the least there can be; a `vocabulary` of None is its tokenizer's."""

    width: int
    inner: int
    layers: int = 28
    heads: int = 4
    key_heads: int = 2
    head_size: int = 4
    vocabulary: int | None = None
    tied: bool = True
    """Whether it answers by the table that it reads tokens by."""

    def tiny(self) -> Qwen3Shape:
        """As wide, so that the transformer takes it."""
        return Qwen3Shape(self.width, inner=64, head_size=16)


@dataclass(frozen=True)
class MemberShape:
    """What differs between members: joint blocks (`layers`), single-stream ones, and a text encoder of its own."""

    layers: int
    single_layers: int
    heads: int
    text: Qwen3Shape
    head_size: int = 128

    def tiny(self) -> MemberShape:
        """The same behind a tiny text encoder."""
        return replace(self, text=self.text.tiny())

    def cut(self, layers: int) -> MemberShape:
        """The same with at most so many of either."""
        return replace(self, layers=min(layers, self.layers), single_layers=min(layers, self.single_layers))


# Sources: text_encoder/config.json and transformer/config.json of black-forest-labs/FLUX.2-klein-base-9B and -4B.
QWEN3_8B = Qwen3Shape(4096, inner=12288, layers=36, heads=32, key_heads=8, head_size=128, vocabulary=151936, tied=False)
QWEN3_4B = replace(QWEN3_8B, width=2560, inner=9728, tied=True)
KLEIN_9B = MemberShape(layers=8, single_layers=24, heads=32, text=QWEN3_8B)
KLEIN_4B = MemberShape(layers=5, single_layers=20, heads=24, text=QWEN3_4B)
TRANSFORMERS = {"klein-base-9b": KLEIN_9B, "klein-base-4b": KLEIN_4B}
