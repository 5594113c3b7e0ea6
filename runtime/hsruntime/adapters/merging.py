"""Adapters added to an open bundle's weights, read from its own files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from hsengines.spec import FLOATS, numpy_dtype
from hsengines.traits import traits_of
from hsengines.weights import UNQUANTIZED
from hsruntime.adapters.changeable import ENGINES_OF, Changeable, Initialiser, engines_of, path_of
from hsruntime.adapters.lora import Update, added
from hsruntime.bundle.manifest import FOREIGN, BundleError
from hsruntime.bundle.reader import Bundle
from hsruntime.request import RequestError


def parts_of(bundle: Bundle) -> list[str]:
    """What takes adapters at run time: members, by their roles, and text encoders, by their engines."""
    listed = {record.path for record in bundle.manifest.files}
    encoders = dict.fromkeys(slot.engine for slot in bundle.manifest.facts.slots)
    return [part for part in (*ENGINES_OF, *encoders) if path_of(part) in listed]


def read_changeable(bundle: Bundle, part: str) -> Changeable:
    """A part's record. Raises RequestError where the bundle has none, BundleError for one that is broken."""
    if part not in parts_of(bundle):
        traits, backend, engines = traits_of(bundle.manifest.backend), bundle.manifest.backend, bundle.manifest.engines
        told = f"the bundle takes no adapters for {part}"
        formats = {engines[name].weight_format for name in engines_of(part) if name in engines}
        if quantised := min(formats - {UNQUANTIZED}, default=""):
            raise RequestError(f"{told}: its weights are stored in {quantised}", "build it with --lora")
        if traits.resident_weights:
            raise RequestError(f"{told}: its {backend} engines hold their weights", "build it with --refit")
        raise RequestError(f"{told}: it does not say where their weights lie", "build it again")
    try:
        found = msgspec.json.decode(bundle.file(path_of(part)).read_bytes(), type=Changeable)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise BundleError(f"{path_of(part)}: {err}", FOREIGN) from err
    _check(bundle, part, found)
    return found


def _check(bundle: Bundle, part: str, record: Changeable) -> None:
    """Raises BundleError for places that do not exist: nothing here has been measured by anybody else."""
    sizes = {file.path: file.size_bytes for file in bundle.manifest.files}
    for engine, weights in record.engines.items():
        if engine not in engines_of(part) or engine not in bundle.manifest.engines:
            raise BundleError(f"{path_of(part)} has engine '{engine}', which is not {part}'s", FOREIGN)
        if weights.file not in bundle.manifest.engines[engine].weights:
            raise BundleError(f"{path_of(part)} refers to '{weights.file}', which is not engine '{engine}'s", FOREIGN)
        for one in weights.initialisers:
            shape = record.shapes.get(one.weight)
            numbers = math.prod(one.shape)
            if (
                one.dtype not in FLOATS.values()
                or sorted(one.axes) != list(range(len(one.axes)))
                or (shape is not None and (len(shape) != len(one.axes) or math.prod(shape) != numbers))
                or one.offset + numbers * numpy_dtype(one.dtype).itemsize > sizes[weights.file]
            ):
                raise BundleError(f"{path_of(part)}: initialiser '{one.name}' of '{engine}' cannot be", FOREIGN)


@dataclass(frozen=True)
class Merging:
    """A member's or a text encoder's weights with adapters added, engine by engine; each by the weights it changes."""

    bundle: Bundle
    changeable: Changeable
    adapters: tuple[Mapping[str, Update], ...]

    def engines(self) -> list[str]:
        """The engines that the adapters change."""
        changed = {name for updates in self.adapters for name in updates}
        found = self.changeable.engines.items()
        return [engine for engine, own in found if any(one.weight in changed for one in own.initialisers)]

    def merged(self, engine: str) -> dict[str, np.ndarray]:
        """What an engine's initialisers become, by name; those that nothing changes only where the engine needs all.

        Each tensor's adapters are added in float32, in their order, to the widest of its copies, as a build adds them
        to the checkpoint's.
        """
        own = self.changeable.engines[engine]
        file, whole = self.bundle.file(own.file), traits_of(self.bundle.manifest.backend).resident_weights
        by_weight: dict[str, list[Initialiser]] = {}
        for one in own.initialisers:
            by_weight.setdefault(one.weight, []).append(one)
        found: dict[str, np.ndarray] = {}
        for name, copies in by_weight.items():
            updates = [adapter[name] for adapter in self.adapters if name in adapter]
            if updates:
                widest = max(copies, key=lambda one: numpy_dtype(one.dtype).itemsize)
                weight = _upright(_read(file, widest), widest, self.changeable.shapes[name])
                for update in updates:
                    weight = added(update, weight)
                found |= {one.name: _laid(weight, one) for one in copies}
            elif whole:
                found |= {one.name: _read(file, one) for one in copies}
        return found


def _read(file: Path, one: Initialiser) -> np.ndarray:
    """Read, not mapped: pages of a mapped file count as this process's until they go."""
    array = np.fromfile(file, numpy_dtype(one.dtype), math.prod(one.shape), offset=one.offset)
    return array.reshape(one.shape)


def _upright(array: np.ndarray, one: Initialiser, shape: Iterable[int]) -> np.ndarray:
    """An initialiser as the checkpoint has it."""
    extents = tuple(shape)
    lying = array.reshape([extents[axis] for axis in one.axes])
    return np.ascontiguousarray(lying.transpose(np.argsort(one.axes)))


def _laid(weight: np.ndarray, one: Initialiser) -> np.ndarray:
    """A checkpoint's tensor as the graph has it, in its type, as a build casts. Raises RequestError beyond fp16."""
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(weight.transpose(one.axes).reshape(one.shape)).astype(numpy_dtype(one.dtype))
    if not np.isfinite(array).all():
        told = f"with these adapters '{one.weight}' holds numbers beyond the reach of {one.dtype}"
        raise RequestError(told, "take a smaller scale, or build with --precision bf16")
    return array
