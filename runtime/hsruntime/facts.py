"""What is true of a pair, stated once: the build fixes it before anything is traced, the manifest holds it as it is."""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=1, le=2**20)]
"""Of layers, heads, widths, tokens, pixels, noise levels; the bound is far beyond any model's."""
Scale = Annotated[float, Meta(ge=-1000, le=1000)]
MOST_NUMBERS = 2**31 - 1
"""In one tensor of an engine, as far as TensorRT counts."""
ALWAYS_STEPS = 128
"""As many a schedule may have, however much that makes."""
SHIFTS = (0.001, 1000.0)
"""Between which a shift of noise levels lies; flow matching models are trained with 1 to 12 or so."""
MOST_REFERENCES = 4
REFERENCE = 1024 * 1024
"""Pixels of a picture that others are drawn after; a larger one is made smaller, as diffusers' pipelines do it."""
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Text = Annotated[str, Meta(max_length=10_000)]
Size = tuple[Count, Count]
"""Width and height in pixels."""
RESIDUAL = "residual_"
"""What light takes of large begins with it, under the names that large has for its answers."""
Operations = dict[str, int]
"""A count as a sum: products of dimensions ("M*N"), each with how often it is taken."""


def size_text(size: tuple[int, ...]) -> str:
    """A size as people write it: `1024x768`."""
    return f"{size[0]}x{size[1]}"


def counted(operations: Operations, **dims: int) -> int:
    """The sum for these dimensions; the product named "1" is taken as it is."""
    known = {"1": 1, **dims}
    return sum(factor * prod(known[dim] for dim in name.split("*")) for name, factor in operations.items())


class Strict(Struct, frozen=True, forbid_unknown_fields=True):
    """A record that knows all of its fields: the base of what is read from JSON, manifests and schedules as well."""


class Lora(Strict, frozen=True, kw_only=True):
    """A LoRA that was fused into a transformer's weights at build."""

    name: Annotated[str, Meta(pattern=r"\A[^/\\]+\Z")]
    """Of the file, without its folder."""
    sha256: Sha256
    scale: Scale


class Positions(Strict, frozen=True, kw_only=True):
    """The part of a position table that an engine carries: which row of it is a token's.

    `origin`: "centre" takes a picture's tokens from the middle of a table of `table_size`^2, of which the engine has
    the middle `rows` and `columns`; "corner" counts from the table's first row and column.
    """

    origin: Literal["centre", "corner"]
    table_size: Count
    rows: Count
    columns: Count


class Transformer(Strict, frozen=True, kw_only=True):
    """What the runtime must know of one transformer: cache slots, positions, text side, terms of the arithmetic."""

    source: str
    """`demo`, a hub id, or for a local path a mark of the weights; a path says nothing on another machine."""
    parameters: Annotated[int, Meta(ge=1)]
    layers: Count
    heads: Count
    head_size: Count
    image_slots: Count
    """Attention layers that keep keys and values of image tokens."""
    text_slots: Annotated[int, Meta(ge=0)]
    """Those that keep them of text tokens."""
    given: Annotated[int, Meta(ge=1, le=2**31)]
    """Numbers that a step takes for each row of what follows from its noise level; all steps' lie in memory at once."""
    positions: Positions
    text: str
    """The text side that it reads."""
    guidance: Literal["classifier-free", "none"] = "classifier-free"
    """How a prompt is followed: by a second row of the negative prompt, or not at all, as distilled ones do."""
    operations: dict[str, Operations]
    """Of a step over G rows, M active of N image tokens and T text tokens, L of them live, by part of the network; a
    part "layers" is there."""
    adapters: tuple[Lora, ...] = ()
    outer: tuple[Count, Count] | None = None
    """How many blocks at either end a light one keeps."""

    @property
    def width(self) -> int:
        """The width of a token inside the transformer."""
        return self.heads * self.head_size


class Latent(Strict, frozen=True, kw_only=True):
    """The latent space both transformers share."""

    channels: Count
    patch_size: Count
    vae_scale: Count
    """Pixels per latent along one side."""

    @property
    def token_width(self) -> int:
        """Numbers in one token: P = p * p * C."""
        return self.patch_size**2 * self.channels

    @property
    def pixels_per_token(self) -> int:
        """Pixels along one side of the square that a token covers; sizes are multiples of it."""
        return self.patch_size * self.vae_scale

    def grid(self, size: Size) -> tuple[int, int]:
        """Tokens (h, w) of a picture of `size` (width, height) pixels."""
        return size[1] // self.pixels_per_token, size[0] // self.pixels_per_token


class Sizes(Strict, frozen=True, kw_only=True):
    """Which pictures the bundle was built for; widths and heights vary independently within the range."""

    default: Size
    minimum: Size
    maximum: Size
    max_batch: Count
    references: Annotated[int, Meta(ge=0, le=MOST_REFERENCES)] = 0
    """How many pictures one may be drawn after, at the most; each no larger than `maximum`, nor than `REFERENCE`."""


class Sigmas(Strict, frozen=True, kw_only=True):
    """The rule that spaces noise levels (hsruntime.loop.flow has one function a rule), and its numbers."""

    rule: Literal["flow-match-euler", "trailing", "empirical-mu"]
    levels: Count
    """As many the pair was trained on; a timestep is sigma times it."""
    shift: Annotated[float, Meta(ge=SHIFTS[0], le=SHIFTS[1])]


class TextSlot(Strict, frozen=True, kw_only=True):
    """One text encoder, its tokenizer, and where its answers go."""

    engine: str
    tokenizer: str
    length: Count
    pad_id: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    into: dict[str, str]
    """Its outputs to the inputs of the side's join."""
    before: Text = ""
    """What a chat template puts in front of a prompt."""
    behind: Text = ""
    """And behind it."""
    in_loras: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    """How the names of its layers begin in files of LoRAs, whoever wrote them; none for an encoder that takes none."""


class TextSide(Strict, frozen=True, kw_only=True):
    """What becomes of a prompt: encoders, and the engine that joins their answers into a transformer's inputs.

    An input of the join that no encoder fills is zeros. Its output "text" (B, T, Dt) is the stream of text tokens.
    """

    join: str
    tokens: Count
    """T, of every prompt."""
    encoders: list[TextSlot]


class Defaults(Strict, frozen=True, kw_only=True):
    """What `generate` does when it is told nothing."""

    schedule: str
    steps: Count
    guidance_scale: Scale


class Facts(Strict, frozen=True, kw_only=True):
    """A pair and what a bundle of it does."""

    family: str
    large: Transformer
    small: Transformer | None = None
    light: Transformer | None = None
    """Large again, without the blocks between the outer ones."""
    latent: Latent
    sizes: Sizes
    sigmas: Sigmas
    text: dict[str, TextSide]
    """By name; members that read the same text share one."""
    defaults: Defaults

    @property
    def members(self) -> dict[str, Transformer]:
        """The pair's, by role; without small only one."""
        return {"large": self.large, "small": self.small} if self.small else {"large": self.large}

    @property
    def text_tokens(self) -> int:
        """T of the text that large reads."""
        return self.text[self.large.text].tokens

    @property
    def most_steps(self) -> int:
        """That a schedule may have: one for each noise level, and no more than the engines can be given at once."""
        most_given = 2 * self.sizes.max_batch * max(model.given for model in self.members.values())
        return min(self.sigmas.levels, max(ALWAYS_STEPS, MOST_NUMBERS // most_given))

    @property
    def has_guidance(self) -> bool:
        """Whether any member takes a second row for each picture."""
        return any(member.guidance == "classifier-free" for member in self.members.values())

    @property
    def slots(self) -> list[TextSlot]:
        """The encoders of all text sides."""
        return [slot for side in self.text.values() for slot in side.encoders]
