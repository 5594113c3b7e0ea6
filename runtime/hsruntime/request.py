"""What a caller asks for, checked before anything runs, and what a session hands back."""

from __future__ import annotations

import math
import operator
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hsengines.errors import HSError, ShapeError
from hsruntime.bundle.manifest import Manifest
from hsruntime.facts import Size
from hsruntime.loop.flow import seeded_noise
from hsruntime.schedule.fit import schedule_for
from hsruntime.schedule.schedule import Schedule
from hsruntime.telling import warn_caller
from hsruntime.text.encode import TextEmbeddings, conditioning_specs
from hsruntime.text.tokenize import PromptRow

if TYPE_CHECKING:
    from hsruntime.adapters.asked import Asked
    from hsruntime.picture.original import Original

FLOAT32_MAX = float(np.finfo(np.float32).max)
LARGEST_SCALE = 1000
"""Of guidance; beyond it pictures are noise, and far beyond it no numbers."""
LONGEST_PROMPT = 100_000
"""In characters, of which text encoders see some hundred words."""
LARGEST_LATENT = 10_000
"""Noise lies within 6 or so, what the loop leaves within some dozens."""


class RequestError(HSError):
    """A call of `generate` that cannot be met."""


class GuidanceWarning(UserWarning):
    """Guidance was asked of a pair that takes none."""


@dataclass(frozen=True)
class Progress:
    """Told to the callback after each step."""

    step: int
    steps: int
    mode: str


Callback = Callable[[Progress], None]


@dataclass(frozen=True)
class Request:
    """A complete, checked order for pictures."""

    prompts: list[PromptRow]
    negative_prompts: list[PromptRow]
    latents: np.ndarray  # (B, C, h, w) float32, at sigma 1
    size: tuple[int, int]  # width, height in pixels
    seeds: tuple[int, ...]  # one for each picture
    guidance_scale: float
    schedule: Schedule
    callback: Callback | None = None
    embeddings: TextEmbeddings | None = None  # in place of prompts, of which there are none then
    original: Original | None = None  # what the pictures begin from, beside `latents`, which are the noise
    marked: np.ndarray | None = None  # (h, w) bool, the region's tokens where the caller marked them
    adapters: Asked | None = None  # None: those that the session was opened with
    references: tuple[np.ndarray, ...] = ()  # (H, W, 3) uint8 each: what the pictures are drawn after

    @property
    def pictures(self) -> int:
        """B."""
        return len(self.seeds)

    @property
    def guided(self) -> bool:
        """Whether guidance doubles the rows; as in diffusers, a scale up to 1 switches it off."""
        return self.guidance_scale > 1

    @property
    def keeps(self) -> bool:
        """Whether part of what is denoised stays as it is: of an original, or what the pictures are drawn after."""
        return bool(self.references) or (self.original is not None and self.original.drawn is not None)

    @property
    def all_prompts(self) -> list[PromptRow]:
        """Prompts by row: negative ones first, if there is guidance."""
        return [*self.negative_prompts, *self.prompts] if self.guided else self.prompts


@dataclass(frozen=True)
class SegmentTime:
    """One segment as it ran."""

    mode: str
    steps: int
    seconds: float


@dataclass(frozen=True)
class Result:
    """Pictures and how they came about."""

    images: np.ndarray  # (B, H, W, 3) uint8
    latents: np.ndarray  # (B, C, h, w) float32, as the loop left them for the VAE
    seeds: tuple[int, ...]  # one for each picture
    region: np.ndarray | None  # (B, N) bool, the last one chosen; None if the schedule has none
    grid: tuple[int, int]  # (h, w) in tokens
    schedule: Schedule
    segments: tuple[SegmentTime, ...]
    seconds: float
    """From the call to the pictures: text, loop and decoding."""
    adapters: tuple[str, ...] = ()
    """Those that were at work, such as "style:0.8"."""

    @property
    def image(self) -> np.ndarray:
        """The first picture (H, W, 3)."""
        return self.images[0]

    @property
    def loop_seconds(self) -> float:
        """The denoising loop alone."""
        return sum(s.seconds for s in self.segments)


Texts = str | Sequence[str] | None
"""One text or several, as callers give them."""


def prompt_rows(manifest: Manifest, prompt: Texts, *others: Texts) -> list[PromptRow]:
    """A row for each prompt; `others` are what the second text encoder reads instead, the third ...

    Raises RequestError.
    """
    if prompt is None:
        raise RequestError("there is neither a prompt nor embeddings", "give one of them")
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts:
        raise RequestError("the list of prompts is empty", "give at least one prompt")
    encoders = max(len(side.encoders) for side in manifest.facts.text.values())
    given = max((number for number, other in enumerate(others, 2) if other), default=1)
    if given > encoders:
        raise RequestError(f"there is a prompt_{given}, the bundle has {encoders} text encoders", "leave it out")
    _check_texts("a prompt", prompts)
    columns = [_for_each(f"a prompt_{number}", other, len(prompts)) for number, other in enumerate(others, 2)]
    return list(zip(prompts, *columns[: given - 1], strict=True))


def negative_rows(negative: Texts, count: int) -> list[PromptRow]:
    """A row for each of `count`, which every text encoder reads; None is an empty one. Raises RequestError."""
    return [(text,) for text in _for_each("a negative prompt", negative, count)]


def _for_each(subject: str, given: Texts, count: int) -> list[str]:
    """One text for each of `count`, None as an empty one."""
    texts = [given or ""] * count if given is None or isinstance(given, str) else list(given)
    if len(texts) != count:
        raise RequestError(f"{len(texts)} {subject[2:]}s for {count} prompts", "give one, or one for each")
    _check_texts(subject, texts)
    return texts


def check_batch(manifest: Manifest, pictures: int) -> None:
    """Raises ShapeError for more than the bundle takes."""
    if pictures > manifest.facts.sizes.max_batch:
        raise ShapeError(
            f"{pictures} prompts at once, the bundle takes {manifest.facts.sizes.max_batch}",
            "build with a larger --max-batch",
        )


def check_alone(*texts: object) -> None:
    """Raises RequestError for prompts that embeddings stand in for."""
    if any(text not in ("", None) for text in texts):
        raise RequestError("there are prompts beside embeddings", "give one of them; negative rows come first")


def checked_embeddings(manifest: Manifest, given: TextEmbeddings, *, guided: bool) -> int:
    """How many pictures the rows are for. Raises RequestError."""
    rows = given.rows if given and all(map(np.ndim, given.values())) else 0
    for name, spec in conditioning_specs(manifest.facts, manifest.specs).items():
        if name not in given:
            raise RequestError(f"embeddings have no {name}, they have {', '.join(given) or 'nothing'}")
        found, shape = np.asarray(given[name]), spec.resolve({"B": rows})
        if found.shape != shape or found.dtype != np.float32:
            raise RequestError(f"embeddings' {name} is {found.dtype}{found.shape}, expected float32{shape}")
        if not np.isfinite(found).all():
            raise RequestError(f"embeddings' {name} holds numbers that are not finite")
    if not rows or (guided and rows % 2):
        expected = "two for each picture under guidance, negative ones first" if guided else "one for each picture"
        raise RequestError(f"embeddings have {rows} rows, expected {expected}")
    return rows // 2 if guided else rows


def seed_list(seed: int | Sequence[int] | None, count: int) -> tuple[int, ...]:
    """One seed for each of `count`; of a single one, the numbers from it on, of None from one by chance.

    Raises RequestError.
    """
    seed = secrets.randbelow(2**32) if seed is None else seed
    if isinstance(seed, Iterable) and not isinstance(seed, str):
        seeds = tuple(whole("a seed", one) for one in seed)
    else:
        first = whole("a seed", seed)
        seeds = tuple(range(first, first + count))
    if len(seeds) != count:
        raise RequestError(f"{len(seeds)} seeds for {count} pictures", "give one, or one for each")
    if min(seeds) < 0:
        raise RequestError(f"seed {min(seeds)} is negative", "seeds start at 0")
    return seeds


def whole(subject: str, number: Any) -> int:
    """A whole number, Python's or numpy's, as Python's. Raises RequestError."""
    try:
        return operator.index(number)
    except TypeError:
        raise RequestError(f"{subject} is a {type(number).__name__}, expected a whole number") from None


def _check_texts(subject: str, texts: list[str]) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise RequestError(f"{subject} is a {type(text).__name__}, expected str")
        if len(text) > LONGEST_PROMPT:
            raise RequestError(f"{subject} has {len(text)} characters, at most {LONGEST_PROMPT} are read", "shorten it")
        try:
            text.encode()
        except UnicodeEncodeError as err:  # lone surrogates: Python's stand-ins for bytes that it could not decode
            raise RequestError(f"{subject} is not text: {err}", "give it as UTF-8") from err


def checked_guidance(manifest: Manifest, asked: float | None) -> float:
    """As asked, else the bundle's. Raises RequestError."""
    try:
        scale = manifest.facts.defaults.guidance_scale if asked is None else float(asked)
    except OverflowError:
        scale = math.inf
    except (TypeError, ValueError):
        raise RequestError(f"guidance_scale is a {type(asked).__name__}, expected a number") from None
    # The engines take float32, where a larger number is infinite; the comparison is false for nan as well.
    if not abs(scale) <= FLOAT32_MAX:
        raise RequestError(f"guidance_scale {scale} is not a finite number", "scales lie between 1 and 10 or so")
    if abs(scale) > LARGEST_SCALE:
        told = f"guidance_scale {scale:g} lies outside -{LARGEST_SCALE}..{LARGEST_SCALE}"
        raise RequestError(told, "scales lie between 1 and 10 or so")
    if scale > 1 and not manifest.facts.has_guidance:
        if asked is not None:
            warn_caller(f"guidance_scale {scale:g} is not used: the pair is distilled, and takes none", GuidanceWarning)
        return 1.0
    return scale


def checked_schedule(
    manifest: Manifest, wanted: str | Schedule | None, steps: int | None, *, marked: bool, size: Size
) -> Schedule:
    """As asked, else the bundle's; `marked`: whether there is a mask that a region may follow. Raises ScheduleError."""
    steps = None if steps is None else whole("steps", steps)
    return schedule_for(manifest.facts, wanted, steps, marked=marked, size=size)


DEFAULT_STRENGTH = 0.6
"""Diffusers' own."""


def checked_strength(strength: float | None, *, begins: bool) -> float | None:
    """How much of a picture is drawn anew, for one that begins from another. Raises RequestError."""
    if not begins:
        if strength is not None:
            raise RequestError("there is a strength, and no picture to begin from", "give an image, or leave it out")
        return None
    if strength is not None and not 0 < strength <= 1:  # false for nan as well
        raise RequestError(f"strength {strength:g} lies outside 0..1", "above 0; 1 keeps nothing of the picture")
    return strength


def checked_size(
    manifest: Manifest, size: tuple[int | None, int | None], latents: np.ndarray | None, default: Size | None = None
) -> Size:
    """Width and height; a side that is None is the latents', `default`'s or the bundle's. Raises ShapeError."""
    sizes, latent = manifest.facts.sizes, manifest.facts.latent
    multiple, scale = latent.pixels_per_token, latent.vae_scale
    default = default or sizes.default
    if latents is not None and latents.ndim == 4:
        default = (latents.shape[3] * scale, latents.shape[2] * scale)
    width, height = (default[i] if side is None else whole("a side", side) for i, side in enumerate(size))
    for name, value, low, high in (
        ("width", width, sizes.minimum[0], sizes.maximum[0]),
        ("height", height, sizes.minimum[1], sizes.maximum[1]),
    ):
        if not low <= value <= high:
            raise ShapeError(
                f"{name} {value} lies outside the bundle's {low}..{high}", "build with another --min-size or --max-size"
            )
        if value % multiple:
            nearest = value - value % multiple
            raise ShapeError(
                f"{name} {value} is not a multiple of {multiple}", f"try {nearest} or {nearest + multiple}"
            )
    return width, height


def checked_latents(
    manifest: Manifest, latents: np.ndarray | None, size: tuple[int, int], seeds: tuple[int, ...]
) -> np.ndarray:
    """As given, else the seeds' noise. Raises RequestError."""
    scale = manifest.facts.latent.vae_scale
    shape = (len(seeds), manifest.facts.latent.channels, size[1] // scale, size[0] // scale)
    if latents is None:
        return seeded_noise(shape[1:], seeds)
    if latents.shape != shape or latents.dtype != np.float32:
        raise RequestError(f"latents are {latents.dtype}{latents.shape}, expected float32{shape}")
    if not (np.abs(latents) <= LARGEST_LATENT).all():
        raise RequestError(f"latents hold numbers beyond {LARGEST_LATENT}, or none at all", "noise has deviation 1")
    return latents
