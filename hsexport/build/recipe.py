"""What is going to be built: the pair's facts as the manifest will hold them, fixed before anything is traced."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hsengines.backend import BuildOptions
from hsengines.errors import HSError
from hsengines.spec import DimRange
from hsengines.traits import DEFAULT_BACKEND
from hsexport.checkpoints.documents import read_document, setting_of
from hsexport.checkpoints.downloads import DOWNLOADS, Fetcher
from hsexport.checkpoints.errors import PairError
from hsexport.checkpoints.loading import load_tokenizer
from hsexport.checkpoints.member import Member
from hsexport.checkpoints.padding import stated_pad_id
from hsexport.checkpoints.pair import Pair, load_pair
from hsexport.checkpoints.source import Role
from hsexport.checkpoints.weights.adapter import Adapter, AdapterRequest, read_adapter
from hsruntime.bundle.manifest import (
    AdapterRecord,
    Defaults,
    Latent,
    PositionTable,
    Scheduler,
    Size,
    Sizes,
    TextEncoder,
    Transformer,
    size_text,
)
from hsruntime.schedule.presets import resolve_schedule

StopAfter = Literal["export", "optimise"]
"""Where a build may end early: graphs without their weights, or as the backend takes them."""
DEFAULT_STEPS = 28  # of a preset
CLIP_LENGTH = 77  # CLIPTextConfig's default
T5_LENGTH = 256  # StableDiffusion3Pipeline's max_sequence_length
TEXT_ENCODERS = (
    ("text_encoder", "tokenizer", "clip"),
    ("text_encoder_2", "tokenizer_2", "clip"),
    ("text_encoder_3", "tokenizer_3", "t5"),
)


class RecipeError(HSError):
    """Build options that do not fit the pair or one another."""


@dataclass(frozen=True)
class BuildRequest:
    """What the user asked `build` for; None means the pair's own default."""

    large: str
    small: str
    out: Path
    cache: Path
    backend: str = DEFAULT_BACKEND
    options: BuildOptions = field(default_factory=BuildOptions)
    fp32: tuple[str, ...] = ()
    """What stays in fp32 beside the default islands: "large:transformer_blocks.35*"."""
    lora: tuple[AdapterRequest, ...] = ()
    """Fused into the weights in this order."""
    stop_after: StopAfter | None = None
    size: Size | None = None
    min_size: Size | None = None
    max_size: Size | None = None
    max_batch: int = 4
    schedule: str = "hybridstitch"
    steps: int | None = None
    guidance_scale: float = 3.5
    without_t5: bool = False
    """Leaves the pair's T5 out; its tokens stay, as zeros."""

    @property
    def parts_left_out(self) -> tuple[str, ...]:
        """Parts whose weights the bundle will not have."""
        return tuple(encoder for encoder, _, kind in TEXT_ENCODERS if kind == "t5") if self.without_t5 else ()


@dataclass(frozen=True)
class TextPart:
    """One text encoder with its folders."""

    record: TextEncoder
    encoder: Path
    tokenizer: Path
    hidden: int
    projection: int  # 0 for T5
    vocabulary: int


@dataclass(frozen=True)
class Recipe:
    """A checked pair with every number the networks and the manifest need."""

    request: BuildRequest
    pair: Pair
    large: Transformer
    small: Transformer
    latent: Latent
    positions: dict[str, PositionTable]
    sizes: Sizes
    scheduler: Scheduler
    text: tuple[TextPart, ...]
    defaults: Defaults
    adapters: Mapping[Role, tuple[Adapter, ...]]
    """What to fuse into each member's weights."""

    @property
    def t5_length(self) -> int:
        """T5's tokens, or their stand-ins: as many where the build leaves T5 out, T5_LENGTH where the pair has none."""
        t5 = TEXT_ENCODERS[-1]
        return _length(self.pair, *t5) if t5[0] in self.pair.shared else T5_LENGTH

    @property
    def text_tokens(self) -> int:
        """T."""
        return self.text[0].record.length + self.t5_length

    def ranges(self) -> dict[str, DimRange]:
        """Extents of every symbolic dimension. Minima are 1: `sizes` bounds what users may ask for."""
        per_token, scale, batch = self.latent.pixels_per_token, self.latent.vae_scale, self.sizes.max_batch
        (width, height), (max_width, max_height) = self.sizes.default, self.sizes.maximum
        steps, levels = self.defaults.steps, self.scheduler.num_train_timesteps
        tokens = DimRange(1, width * height // per_token**2, max_width * max_height // per_token**2)
        return {
            "B": DimRange(1, 1, batch),
            "G": DimRange(1, 2, 2 * batch),
            "L": DimRange(1, 2, 2 * batch),
            "N": tokens,
            "M": tokens,
            "R": DimRange(0, tokens.optimum, max(tokens.maximum, self.text_tokens)),
            "K": DimRange(1, tokens.optimum, max(tokens.maximum, self.text_tokens)),
            "T": DimRange(1, self.text_tokens, self.text_tokens),
            "S": DimRange(1, steps, levels),
            "h": DimRange(1, height // scale, max_height // scale),
            "w": DimRange(1, width // scale, max_width // scale),
        }


def recipe_for(request: BuildRequest, fetcher: Fetcher = DOWNLOADS) -> Recipe:
    """The recipe of the pair that is asked for, found and checked. Raises PairError, RecipeError or ScheduleError.

    With Previews for a `fetcher` it is good for a plan, as long as they are open.
    """
    return recipe_from_pair(load_pair(request.large, request.small, request.parts_left_out, fetcher), request)


def recipe_from_pair(pair: Pair, request: BuildRequest) -> Recipe:
    """Completes the request with the pair's facts. Raises RecipeError or ScheduleError for what cannot be."""
    config, vae = pair.large.config, pair.vae
    latent = Latent(channels=config.in_channels, patch_size=config.patch_size, vae_scale=vae.scale)
    sizes = _sizes(pair, latent, request)
    schedule = resolve_schedule(request.schedule, request.steps, DEFAULT_STEPS)
    if not math.isfinite(request.guidance_scale):
        raise RecipeError(f"--guidance-scale {request.guidance_scale} is not a number to scale by", "ask for 3.5 or so")
    adapters = {member.role: _adapters(member, request) for member in (pair.large, pair.small)}
    return Recipe(
        request=request,
        pair=pair,
        large=_transformer(pair.large, adapters["large"]),
        small=_transformer(pair.small, adapters["small"]),
        latent=latent,
        positions={
            role: _positions(member, latent, sizes) for role, member in (("large", pair.large), ("small", pair.small))
        },
        sizes=sizes,
        scheduler=Scheduler(num_train_timesteps=pair.scheduler.num_train_timesteps, shift=pair.scheduler.shift),
        text=tuple(
            _text_part(pair, *names)
            for names in TEXT_ENCODERS
            if names[0] in pair.shared and names[0] not in request.parts_left_out
        ),
        defaults=Defaults(schedule=request.schedule, steps=schedule.steps, guidance_scale=request.guidance_scale),
        adapters=adapters,
    )


def _adapters(member: Member, request: BuildRequest) -> tuple[Adapter, ...]:
    return tuple(read_adapter(asked, member) for asked in request.lora if asked.role == member.role)


def _transformer(member: Member, adapters: tuple[Adapter, ...]) -> Transformer:
    config = member.config
    return Transformer(
        source=member.told_source(),
        parameters=member.parameters,
        layers=config.num_layers,
        heads=config.num_attention_heads,
        head_size=config.attention_head_dim,
        dual_attention_layers=list(config.dual_attention_layers),
        text_width=config.joint_attention_dim,
        pooled_width=config.pooled_projection_dim,
        adapters=[AdapterRecord(name=a.file.name, sha256=a.sha256, scale=a.scale) for a in adapters],
    )


def _positions(member: Member, latent: Latent, sizes: Sizes) -> PositionTable:
    columns, rows = (side // latent.pixels_per_token for side in sizes.maximum)
    return PositionTable(table_size=member.config.pos_embed_max_size, rows=rows, columns=columns)


def _sizes(pair: Pair, latent: Latent, request: BuildRequest) -> Sizes:
    """Default: the size large was trained at; from half of it to half as much again, as far as the tables reach."""
    unit = latent.pixels_per_token
    reach = unit * min(pair.large.config.pos_embed_max_size, pair.small.config.pos_embed_max_size)
    trained = pair.large.config.sample_size * latent.vae_scale
    default = request.size or (trained, trained)
    low = request.min_size or tuple(max(unit, side // 2 // unit * unit) for side in default)
    high = request.max_size or tuple(max(side, min(reach, side * 3 // 2 // unit * unit)) for side in default)
    for name, size in (("--size", default), ("--min-size", low), ("--max-size", high)):
        _check_size(name, size, unit, reach)
    if not all(a <= b <= c for a, b, c in zip(low, default, high, strict=True)):
        shown = list(map(size_text, (low, default, high)))
        raise RecipeError(f"sizes {shown[0]} (minimum), {shown[1]} and {shown[2]} (maximum) are not in ascending order")
    if request.max_batch < 1:
        raise RecipeError(f"--max-batch {request.max_batch} is too small", "ask for 1 or more")
    return Sizes(default=default, minimum=(low[0], low[1]), maximum=(high[0], high[1]), max_batch=request.max_batch)


def _check_size(name: str, size: tuple[int, ...], unit: int, reach: int) -> None:
    for side in size:
        if side < unit or side % unit:
            raise RecipeError(f"{name} {size_text(size)}: {side} is not a multiple of {unit} pixels")
        if side > reach:
            raise RecipeError(
                f"{name} {size_text(size)}: {side} is beyond the {reach} pixels that the pair's position tables reach"
            )


def _text_part(pair: Pair, encoder: str, tokenizer: str, kind: str) -> TextPart:
    folder, vocabulary = pair.shared[encoder], setting_of(pair.shared[encoder], "vocab_size")
    record = TextEncoder(
        engine=encoder,
        kind=kind,
        tokenizer=f"tokenizers/{tokenizer}.json",
        length=_length(pair, encoder, tokenizer, kind),
        pad_id=_pad_id(pair.shared[tokenizer], vocabulary),
    )
    hidden = setting_of(folder, "d_model" if kind == "t5" else "hidden_size")
    projection = 0 if kind == "t5" else setting_of(folder, "projection_dim")
    return TextPart(record, folder, pair.shared[tokenizer], hidden, projection, vocabulary)


def _length(pair: Pair, encoder: str, tokenizer: str, kind: str) -> int:
    """The tokens that an encoder reads of every prompt."""
    longest = T5_LENGTH if kind == "t5" else setting_of(pair.shared[encoder], "max_position_embeddings", CLIP_LENGTH)
    return min(longest, _model_max_length(pair.shared[tokenizer], longest))


def _model_max_length(tokenizer: Path, default: int) -> int:
    """The tokenizer's own limit; T5's may be 1e30, which transformers writes for none."""
    found = read_document(tokenizer / "tokenizer_config.json").get("model_max_length")
    if found is None:
        return default
    if not isinstance(found, int | float) or isinstance(found, bool) or not 1 <= found < math.inf:
        raise PairError(
            f"{tokenizer}/tokenizer_config.json has model_max_length {found!r}, expected a number of tokens",
            "download or save the model again",
        )
    return int(found)


def _pad_id(tokenizer: Path, vocabulary: int) -> int:
    """The id that fills a prompt up to its full length."""
    found = stated_pad_id(tokenizer)
    if found is None:
        found = load_tokenizer(tokenizer).pad_token_id
    if found is None or not 0 <= found < vocabulary:
        raise PairError(
            f"{tokenizer} pads with {'no token' if found is None else f'token {found}'}, expected one of the text "
            f"encoder's {vocabulary}",
            "is it the tokenizer of that text encoder? download or save the model again",
        )
    return int(found)


def check_tokenizers(recipe: Recipe) -> None:
    """Loads each tokenizer with transformers, which takes seconds; raises PairError now and not when all is packed."""
    for part in recipe.text:
        found = load_tokenizer(part.tokenizer).pad_token_id
        if found != part.record.pad_id:
            raise PairError(
                f"{part.tokenizer} pads with token {part.record.pad_id} by its files, with {found} by transformers",
                "save the tokenizer again with transformers",
            )
