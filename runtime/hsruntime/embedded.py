"""What libhsruntime (runtime/capi) calls: the C side converts arguments, everything is decided here.

Every function answers (code, message, value) and raises nothing; codes are those of hsruntime.h.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import msgspec
import numpy as np

from hsengines.errors import BackendUnavailable, DeviceError, DeviceMemoryError, EngineLoadError, HSError, ShapeError
from hsruntime.bundle.manifest import BundleError
from hsruntime.request import Progress, RequestError
from hsruntime.schedule.schedule import ScheduleError
from hsruntime.session import Session
from hsruntime.telling import warnings_kept
from hsruntime.text.encode import TextEmbeddings, conditioning_specs

OK, CANCELLED, OTHER, INTERNAL = 0, 8, 9, 10
CODES = {
    BundleError: 3,
    RequestError: 4,
    ShapeError: 4,
    ScheduleError: 4,
    BackendUnavailable: 5,
    EngineLoadError: 5,
    DeviceMemoryError: 7,
    DeviceError: 6,
}
"""hsr_status of errors; the first that fits, so children stand before their parents."""

Borrowed = tuple[memoryview, tuple[int, ...]]
"""float32 numbers that belong to the caller, and their shape."""
Options = Sequence[tuple[bytes, Any]]
"""Names and values, as they stand in C."""
Answer = tuple[int, str, Any]
Arguments = ParamSpec("Arguments")


class Cancelled(Exception):
    """The caller's callback asked for the end."""


def _answering(call: Callable[Arguments, Any]) -> Callable[Arguments, Answer]:
    """Errors become codes and lines."""

    @wraps(call)
    def answer(*arguments: Arguments.args, **named: Arguments.kwargs) -> Answer:
        try:
            return OK, "", call(*arguments, **named)
        except Cancelled:
            return CANCELLED, "the callback cancelled it", None
        except HSError as err:
            return next((code for kind, code in CODES.items() if isinstance(err, kind)), OTHER), str(err), None
        except OSError as err:
            return OTHER, str(err), None
        except BaseException as err:  # nothing may cross the border, SystemExit neither
            return INTERNAL, f"{type(err).__name__}: {err}", None

    return answer


@_answering
def open_session(path: bytes, given: Options) -> Session:
    """A session."""
    return Session.open(os.fsdecode(path), **_named(given))


@_answering
def close(session: Session) -> None:
    """Closes a session."""
    session.close()


@_answering
def describe(session: Session) -> bytes:
    """What a caller must know to ask for pictures, as JSON."""
    m = session.manifest
    sizes = {"default": m.facts.sizes.default, "minimum": m.facts.sizes.minimum, "maximum": m.facts.sizes.maximum}
    facts = {
        "backend": m.backend,
        "precision": m.precision,
        "target": m.target,
        "large": m.facts.large.source,
        "small": m.facts.small.source if m.facts.small else None,
        "sizes": {**sizes, "multiple": m.facts.latent.pixels_per_token},
        "max_batch": m.facts.sizes.max_batch,
        "max_steps": m.facts.most_steps,
        "defaults": m.facts.defaults,
        "latents": {"channels": m.facts.latent.channels, "pixels_each": m.facts.latent.vae_scale},
        "text": {name: ["G", *spec.shape[1:]] for name, spec in conditioning_specs(m.facts, m.specs).items()},
        "engines": list(m.engines),
    }
    return msgspec.json.encode(facts)


@_answering
def generate(
    session: Session,
    given: Options,
    embeddings: Sequence[tuple[bytes, Borrowed]],
    latents: Borrowed | None,
    tell: Callable[[int, int, bytes], bool] | None,
) -> tuple[Any, ...]:
    """Pictures, latents and region as DLPack capsules, schedule, seconds, seconds of the loop, grid, warnings.

    `tell` answers whether to go on.
    """
    with warnings_kept() as told:
        result = session.generate(
            **_named(given),
            embeddings=_embeddings(embeddings),
            latents=None if latents is None else _array(latents),
            callback=_callback(tell) if tell else None,
        )
    region = None if result.region is None else _capsule(result.region.view(np.uint8))
    schedule_as_run = str(result.schedule).encode()
    pictures, last = _capsule(result.images), _capsule(result.latents)
    warnings = "\n".join(told).encode("utf-8", "replace")
    return pictures, last, region, schedule_as_run, result.seconds, result.loop_seconds, *result.grid, warnings


@_answering
def encode(session: Session, given: Options) -> tuple[tuple[bytes, Any], ...]:
    """Text embeddings by name as DLPack capsules, with rows of negative prompts if that guidance asks for them."""
    asked = _named(given)
    facts = session.manifest.facts
    guided = facts.has_guidance and asked.get("guidance_scale", facts.defaults.guidance_scale) > 1
    negative = asked.get("negative_prompt", "") if guided else None
    others = {name: asked.get(name) for name in ("prompt_2", "prompt_3", "lora")}
    found = session.encode(asked.get("prompt", []), negative_prompt=negative, **others)
    return tuple((name.encode(), _capsule(array)) for name, array in found.items())


def _callback(tell: Callable[[int, int, bytes], bool]) -> Callable[[Progress], None]:
    def after_step(now: Progress) -> None:
        if not tell(now.step, now.steps, now.mode.encode()):
            raise Cancelled

    return after_step


def _capsule(array: np.ndarray) -> Any:
    """The array's own memory; the capsule's tensor keeps it alive."""
    return np.ascontiguousarray(array).__dlpack__()


def _array(borrowed: Borrowed) -> np.ndarray:
    return np.frombuffer(borrowed[0], np.float32).reshape(borrowed[1])


def _embeddings(given: Sequence[tuple[bytes, Borrowed]]) -> TextEmbeddings | None:
    arrays = {_python("name of embeddings", name): _array(borrowed) for name, borrowed in given}
    return TextEmbeddings(**arrays) if arrays else None


def _named(given: Options) -> dict[str, Any]:
    """By name; without what is zero or empty, which stands for the bundle's own."""
    asked = {name.decode(): value for name, value in given if value or value is False}
    return {name: _python(name.replace("_", " "), value) for name, value in asked.items()}


def _python(subject: str, raw: Any) -> Any:
    """Bytes as text, a file's as bytes, several as a list, a list of one as the one that it is."""
    if isinstance(raw, memoryview):
        return bytes(raw)
    if isinstance(raw, tuple):
        return _python(subject, raw[0]) if len(raw) == 1 else [_python(subject, one) for one in raw]
    try:
        return raw.decode() if isinstance(raw, bytes) else raw
    except UnicodeDecodeError as err:
        raise RequestError(f"a {subject} is not UTF-8: {err}", "give it as UTF-8") from err
