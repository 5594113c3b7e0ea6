"""The facts of what is going to be built, fixed before anything is traced."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import msgspec
from msgspec import structs

from hsexport.build.request import BuildRequest, RecipeError
from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.hub import DOWNLOADS, Fetcher
from hsexport.checkpoints.tokenizers import load_tokenizer
from hsexport.checkpoints.weights.adapter import Adapter, changeable_from, read_adapter
from hsexport.families.pair import Member, Pair, load_pair
from hsexport.families.recipe import Recipe
from hsruntime.adapters.changeable import Changeable
from hsruntime.facts import (
    MOST_REFERENCES,
    Defaults,
    Facts,
    Latent,
    Lora,
    Sizes,
    TextSide,
    TextSlot,
    Transformer,
    size_text,
)
from hsruntime.schedule.fit import schedule_for
from hsruntime.schedule.presets import resolve_schedule


def recipe_for(request: BuildRequest, fetcher: Fetcher = DOWNLOADS) -> Recipe:
    """The recipe of the pair that is asked for, found and checked. Raises PairError, RecipeError or ScheduleError.

    With Previews for a `fetcher` it is good for a plan, as long as they are open.
    """
    return recipe_from_pair(load_pair(request.large, request.small, request.parts_left_out, fetcher), request)


def recipe_from_pair(pair: Pair, request: BuildRequest) -> Recipe:
    """Completes the request with the pair's facts. Raises RecipeError or ScheduleError for what cannot be."""
    family, latent = pair.family, pair.family.latent(pair)
    sizes = _sizes(pair, latent, request)
    wanted = request.schedule or ("hybridstitch" if pair.small else "lightstitch" if request.light else "large")
    schedule = resolve_schedule(wanted, request.steps, family.steps(pair))
    if not math.isfinite(request.guidance_scale):
        raise RecipeError(f"--guidance-scale {request.guidance_scale} is not a number to scale by", "ask for 3.5 or so")
    text = family.text_sides(pair, request.parts_left_out, request.max_sequence_length)
    members = {member.role: family.transformer(member, latent, sizes) for member in pair.members}
    adapters = {m.role: _adapters(pair, m, text[members[m.role].text], request) for m in pair.members}
    for lora in request.lora:
        if lora.role not in adapters:
            raise RecipeError(f"--lora {lora.role}={lora.file} is for a model that is left out", "leave it out, too")
    large, small = (_with(members[role], adapters[role]) if role in members else None for role in ("large", "small"))
    assert large
    guided = any(member.guidance == "classifier-free" for member in (large, small) if member)
    facts = Facts(
        family=family.name,
        large=large,
        small=small,
        light=family.light(pair.large, large, request.light) if request.light else None,
        latent=latent,
        sizes=sizes,
        sigmas=family.sigmas(pair),
        text=text,
        defaults=Defaults(
            schedule=wanted, steps=schedule.steps, guidance_scale=request.guidance_scale if guided else 1.0
        ),
    )
    _check_bounds(facts)
    schedule_for(facts)
    return Recipe(pair, facts, adapters)


def _check_bounds(facts: Facts) -> None:
    """Raises RecipeError for a number that no manifest may hold, before anything is built with it."""
    try:
        msgspec.convert(msgspec.to_builtins(facts), Facts)
    except msgspec.ValidationError as err:
        raise RecipeError(f"the pair has facts that no bundle can hold: {err}", "look at its configuration") from err


def _with(transformer: Transformer, adapters: tuple[Adapter, ...]) -> Transformer:
    told = (Lora(name=adapter.file.name, sha256=adapter.sha256, scale=adapter.scale) for adapter in adapters)
    return structs.replace(transformer, adapters=tuple(told))


def _adapters(pair: Pair, member: Member, text: TextSide, request: BuildRequest) -> tuple[Adapter, ...]:
    """What to fuse into a member, and into the text encoders that it reads. Raises PairError."""
    encoders = {slot.engine: slot.in_loras for slot in text.encoders}
    changeable = partial(changeable_of, pair, text.encoders)
    asked = (lora for lora in request.lora if lora.role == member.role)
    return tuple(read_adapter(lora, encoders, changeable, str(member)) for lora in asked)


def changeable_of(pair: Pair, slots: Iterable[TextSlot], part: str) -> Changeable:
    """What adapters may change of a member, by its role, or of one of the slots' text encoders, by its engine."""
    for member in pair.members:
        if member.role == part:
            return changeable_from(member.tensors, pair.family.places(member.config))
    slot = next(slot for slot in slots if slot.engine == part)  # sides may share it
    return changeable_from(*pair.family.encoder_tensors(pair, slot))


def _sizes(pair: Pair, latent: Latent, request: BuildRequest) -> Sizes:
    """Default: the size large was trained at; from half of it to half as much again, as far as positions reach."""
    unit, reach, trained = latent.pixels_per_token, pair.family.reach(pair), pair.family.trained_size(pair)
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
    references = pair.family.references if request.references is None else request.references
    if references and not pair.family.references:
        raise RecipeError(f"--references {references}: the pair's family draws after no pictures", "leave it out")
    if not 0 <= references <= MOST_REFERENCES:
        raise RecipeError(f"--references {references} lies outside 0..{MOST_REFERENCES}")
    ends = {"minimum": (low[0], low[1]), "maximum": (high[0], high[1])}
    return Sizes(default=default, **ends, max_batch=request.max_batch, references=references)


def _check_size(name: str, size: tuple[int, ...], unit: int, reach: int) -> None:
    for side in size:
        if side < unit or side % unit:
            raise RecipeError(f"{name} {size_text(size)}: {side} is not a multiple of {unit} pixels")
        if side > reach:
            raise RecipeError(
                f"{name} {size_text(size)}: {side} is beyond the {reach} pixels that the pair's position tables reach"
            )


def check_tokenizers(recipe: Recipe) -> None:
    """Loads each tokenizer with transformers, which takes seconds; raises PairError now and not when all is packed."""
    for slot in recipe.facts.slots:
        folder = recipe.pair.family.tokenizer(recipe.pair, slot)
        found = load_tokenizer(folder).pad_token_id
        if found != slot.pad_id:
            raise PairError(
                f"{folder} pads with token {slot.pad_id} by its files, with {found} by transformers",
                "save the tokenizer again with transformers",
            )
