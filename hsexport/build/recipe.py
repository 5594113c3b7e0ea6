"""What is going to be built: the pair's facts as the manifest will hold them, fixed before anything is traced."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hsengines.build import BuildOptions
from hsengines.errors import HSError
from hsengines.spec import DimRange
from hsengines.traits import DEFAULT_BACKEND
from hsexport.checkpoints.config import TransformerConfig
from hsexport.checkpoints.documents import read_document, setting_of
from hsexport.checkpoints.downloads import DOWNLOADS, Fetcher
from hsexport.checkpoints.errors import PairError
from hsexport.checkpoints.loading import load_tokenizer
from hsexport.checkpoints.member import Member
from hsexport.checkpoints.padding import stated_pad_id
from hsexport.checkpoints.pair import Pair, load_pair
from hsexport.checkpoints.source import Role
from hsexport.checkpoints.weights.adapter import Adapter, AdapterRequest, read_adapter
from hsruntime.facts import (
    Defaults,
    Facts,
    Latent,
    Lora,
    Operations,
    Positions,
    Sigmas,
    Size,
    Sizes,
    TextSide,
    TextSlot,
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
    """What stays in fp32 beside the default fp32 block list: "large:transformer_blocks.35*"."""
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

    slot: TextSlot
    kind: str
    encoder: Path
    tokenizer: Path
    hidden: int
    projection: int  # 0 for T5
    vocabulary: int


@dataclass(frozen=True)
class Recipe:
    """A checked pair, its facts, and what the networks need beside them."""

    request: BuildRequest
    pair: Pair
    facts: Facts
    text: tuple[TextPart, ...]
    adapters: Mapping[Role, tuple[Adapter, ...]]
    """What to fuse into each member's weights."""

    def ranges(self) -> dict[str, DimRange]:
        """Extents of every symbolic dimension. Minima are 1: `sizes` bounds what users may ask for."""
        sizes, per_token, scale = self.facts.sizes, self.facts.latent.pixels_per_token, self.facts.latent.vae_scale
        (width, height), (max_width, max_height), batch = sizes.default, sizes.maximum, sizes.max_batch
        steps, levels = self.facts.defaults.steps, self.facts.sigmas.levels
        tokens = DimRange(1, width * height // per_token**2, max_width * max_height // per_token**2)
        return {
            "B": DimRange(1, 1, batch),
            "G": DimRange(1, 2, 2 * batch),
            "L": DimRange(1, 2, 2 * batch),
            "N": tokens,
            "M": tokens,
            "R": DimRange(0, tokens.optimum, max(tokens.maximum, self.facts.text_tokens)),
            "K": DimRange(1, tokens.optimum, max(tokens.maximum, self.facts.text_tokens)),
            "T": DimRange(1, self.facts.text_tokens, self.facts.text_tokens),
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
    text = tuple(
        _text_part(pair, *names)
        for names in TEXT_ENCODERS
        if names[0] in pair.shared and names[0] not in request.parts_left_out
    )
    # T5's tokens, or their stand-ins: as many where the build leaves T5 out, T5_LENGTH where the pair has none.
    t5_length = _length(pair, *TEXT_ENCODERS[-1]) if TEXT_ENCODERS[-1][0] in pair.shared else T5_LENGTH
    slots = [part.slot for part in text]
    facts = Facts(
        family="sd3",
        large=_transformer(pair.large, adapters["large"], latent, sizes),
        small=_transformer(pair.small, adapters["small"], latent, sizes),
        latent=latent,
        sizes=sizes,
        sigmas=Sigmas(rule="flow-match-euler", levels=pair.scheduler.num_train_timesteps, shift=pair.scheduler.shift),
        text={"text": TextSide(join="join_text", tokens=text[0].slot.length + t5_length, encoders=slots)},
        defaults=Defaults(schedule=request.schedule, steps=schedule.steps, guidance_scale=request.guidance_scale),
    )
    return Recipe(request, pair, facts, text, adapters)


def _adapters(member: Member, request: BuildRequest) -> tuple[Adapter, ...]:
    return tuple(read_adapter(asked, member) for asked in request.lora if asked.role == member.role)


def _transformer(member: Member, adapters: tuple[Adapter, ...], latent: Latent, sizes: Sizes) -> Transformer:
    config = member.config
    columns, rows = (side // latent.pixels_per_token for side in sizes.maximum)
    return Transformer(
        source=member.told_source(),
        parameters=member.parameters,
        layers=config.num_layers,
        heads=config.num_attention_heads,
        head_size=config.attention_head_dim,
        image_slots=config.num_layers + len(config.dual_attention_layers),
        text_slots=config.num_layers,
        positions=Positions(origin="centre", table_size=config.pos_embed_max_size, rows=rows, columns=columns),
        text="text",
        operations=operations_of(config),
        adapters=tuple(Lora(name=a.file.name, sha256=a.sha256, scale=a.scale) for a in adapters),
    )


TIMESTEP_WIDTH = 256  # diffusers' CombinedTimestepTextProjEmbeddings


def operations_of(config: TransformerConfig) -> dict[str, Operations]:
    """Matrix products of a step, a multiplication and an addition being two operations.

    Layers, per token: 12 w^2 multiply-adds (query, key, value, output, two of 4 w^2 in the feed-forward), per query and
    key 2 w. The last layer's text keeps keys and values only; a dual attention adds 4 w^2 and its own queries and keys
    among image tokens. Modulation follows from timestep and pooled text, not from the tokens.
    """
    w, layers, dual = config.width, config.num_layers, len(config.dual_attention_layers)
    token = config.in_channels * config.patch_size**2
    chunks = 6 * layers + 3 * dual  # of width w, for the image; a dual one has 9
    chunks += 6 * (layers - 1) + 2  # for the text
    chunks += 2  # norm_out
    return {
        "layers": {
            "G*M": 2 * (12 * layers + 4 * dual) * w * w,
            "G*L": 2 * (12 * layers - 10) * w * w,
            "G*M*N": 4 * w * (layers + dual),
            "G*M*T": 4 * w * layers,
            "G*L*N": 4 * w * (layers - 1),
            "G*L*T": 4 * w * (layers - 1),
        },
        "embeddings": {
            "G*M": 2 * token * w,
            "G*L": 2 * config.joint_attention_dim * w,
            "G": 2 * (config.pooled_projection_dim * w + w * w),
            "1": 2 * (TIMESTEP_WIDTH * w + w * w),  # one timestep for all rows
        },
        "modulation": {"G": 2 * chunks * w * w},
        "output": {"G*M": 2 * token * w},
    }


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
    number = encoder.removeprefix("text_encoder").strip("_") or "1"
    answers = ("states",) if kind == "t5" else ("states", "pooled")
    slot = TextSlot(
        engine=encoder,
        tokenizer=f"tokenizers/{tokenizer}.json",
        length=_length(pair, encoder, tokenizer, kind),
        pad_id=_pad_id(pair.shared[tokenizer], vocabulary),
        into={answer: f"{answer}_{number}" for answer in answers},
    )
    hidden = setting_of(folder, "d_model" if kind == "t5" else "hidden_size")
    projection = 0 if kind == "t5" else setting_of(folder, "projection_dim")
    return TextPart(slot, kind, folder, pair.shared[tokenizer], hidden, projection, vocabulary)


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
        if found != part.slot.pad_id:
            raise PairError(
                f"{part.tokenizer} pads with token {part.slot.pad_id} by its files, with {found} by transformers",
                "save the tokenizer again with transformers",
            )
