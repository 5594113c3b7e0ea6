"""Which bundles' pictures can be set beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from hsengines.errors import HSError, ShapeError
from hsruntime.bundle.manifest import Manifest
from hsruntime.bundle.reader import Bundle, open_bundle
from hsruntime.request import checked_size
from hsruntime.schedule.fit import schedule_for
from hsruntime.schedule.schedule import Schedule, ScheduleError

SHARED = ("family", "latent", "sigmas", "text")
"""Facts that are the same where one noise and one prompt mean the same; precision, weights and backend are none."""
OF_MEMBERS = ("layers", "heads", "head_size", "parameters")


class CannotCompare(HSError):
    """Bundles whose pictures say nothing of one another."""


def opened_all(paths: Sequence[Path]) -> dict[str, Bundle]:
    """The bundles by name: their folders' or, where two have the same, their whole paths."""
    whole = [path.absolute() for path in paths]
    names = [path.name for path in whole]
    if len(set(names)) < len(names):
        names = [str(path) for path in whole]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise CannotCompare(f"--against names '{paths[number]}' a second time", "name every bundle once")
    return {name: open_bundle(path) for name, path in zip(names, paths, strict=True)}


def check_comparable(bundles: Mapping[str, Bundle], schedules: Iterable[Schedule]) -> None:
    """Raises CannotCompare, with what differs, unless all are of the first one's pair and draw what it is asked for."""
    (first_name, first), *others = bundles.items()
    for name, bundle in others:
        own, expected = (dict(_told(each.manifest)) for each in (bundle, first))
        # What only one has, as small where it was left out, is for the schedules to miss.
        for fact in [fact for fact in expected if fact in own and own[fact] != expected[fact]]:
            raise CannotCompare(
                f"{name} cannot be set beside {first_name}: {fact} is {own[fact]}, not {expected[fact]}",
                "name bundles of one pair",
            )
        try:
            checked_size(bundle.manifest, first.manifest.facts.sizes.default, None)
            for schedule in schedules:
                schedule_for(bundle.manifest.facts, schedule)
        except (ShapeError, ScheduleError) as err:
            raise CannotCompare(f"{name} cannot be set beside {first_name}: {err.message}", err.hint) from err


def _told(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    """What must be the same, a name and a value each."""
    facts = to_builtins(manifest.facts)
    yield from _flat("", {name: facts[name] for name in SHARED})
    for role, member in manifest.facts.members.items():
        yield from ((f"{role}.{name}", getattr(member, name)) for name in OF_MEMBERS)
    digests = {record.path: record.sha256 for record in manifest.files}
    yield from ((slot.tokenizer, digests[slot.tokenizer][:12]) for slot in manifest.facts.slots)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in parts:
            yield from _flat(f"{name}.{key}" if name else str(key), each)
        if isinstance(value, list):
            yield f"{name}, how many", len(value)
    else:
        yield name, value
