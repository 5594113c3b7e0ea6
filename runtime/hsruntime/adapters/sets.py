"""Engines with adapters merged into their weights: opened for a set of adapters, and those used last kept open."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from hsengines.backend import Engine, Weights
from hsruntime.adapters.asked import Asked, Folder, Named
from hsruntime.adapters.changeable import ENGINES_OF, Changeable, Role, encoders_read
from hsruntime.adapters.lora import Adapter, AdapterRequest, read_adapter
from hsruntime.adapters.merging import Merging, read_changeable
from hsruntime.bundle.reader import Bundle
from hsruntime.request import RequestError


class AdapterWarning(UserWarning):
    """A part of an adapter that is left out."""


@dataclass
class AdapterSet:
    """Some adapters at work; without any, the bundle as it was built.

    `key` tells it from every other set, and a file from what it held before. `merging`: how each engine that they
    change gets its weights, by its name; `engines`: those of them that are open.
    """

    key: Hashable = ()
    told: tuple[str, ...] = ()
    size_bytes: int = 0
    merging: Mapping[str, Merging] = field(default_factory=dict)
    engines: dict[str, Engine] = field(default_factory=dict)

    def weights(self, engine: str) -> Weights:
        """What an engine is opened with in place of its own."""
        return self.merging[engine].merged(engine) if engine in self.merging else {}


class AdapterSets:
    """The sets used last: at most `most_kept`, and within a cap on the memory that their weights take."""

    def __init__(
        self,
        bundle: Bundle,
        folder: Folder,
        load: Callable[[str, Weights], Engine],
        *,
        most_kept: int,
        cap_bytes: int | None,
        on_drop: Callable[[AdapterSet], None],
        elsewhere: frozenset[str] = frozenset(),
    ) -> None:
        """`load` opens an engine with other weights; `on_drop` frees what is bound to a set's engines.

        Engines in `elsewhere` are opened when they run, and closed behind it.
        """
        self.folder = folder
        self._bundle = bundle
        self._load = load
        self._elsewhere = elsewhere
        self._most_kept, self._cap_bytes = most_kept, cap_bytes
        self._on_drop = on_drop
        self._changeable: dict[str, Changeable] = {}
        self._plain = AdapterSet()
        self._kept: dict[Hashable, AdapterSet] = {}

    def of(self, asked: Asked) -> AdapterSet:
        """The set of these adapters, read anew or as an earlier call left it; `opened` opens its engines.

        Raises RequestError, PairError for files that do not fit, BundleError.
        """
        if not asked:
            return self._plain
        requests = [self.folder.file(one) if isinstance(one, Named) else one for one in asked]
        key = tuple(map(_key, requests))
        if key in self._kept:
            self._kept[key] = self._kept.pop(key)  # youngest last
            return self._kept[key]
        made = self._read(requests, key)
        self._make_room(made)
        self._kept[key] = made
        return made

    def opened(self, of: AdapterSet) -> AdapterSet:
        """The set with every engine open that it changes, but those that are opened when they run.

        Raises EngineLoadError; what was opened by then is closed.
        """
        try:
            for name in of.merging:
                if name not in of.engines and name not in self._elsewhere:
                    of.engines[name] = self._load(name, of.weights(name))
        except BaseException:
            self._drop(of)
            raise
        return of

    def close(self) -> None:
        """Frees all of them."""
        while self._kept:
            self._drop(next(iter(self._kept.values())))

    def _read(self, requests: list[AdapterRequest], key: Hashable) -> AdapterSet:
        # Large's first, as a build adds them to a text encoder that both members read.
        adapters = [self._adapter(request) for role in ENGINES_OF for request in requests if request.role == role]
        merging: dict[str, Merging] = {}
        for part in dict.fromkeys(part for adapter in adapters for part in adapter.updates):
            updates = tuple(adapter.updates[part] for adapter in adapters if part in adapter.updates)
            ours = Merging(self._bundle, self._record(part), updates)
            merging |= dict.fromkeys(ours.engines(), ours)
        sizes = {file.path: file.size_bytes for file in self._bundle.manifest.files}
        records = [self._bundle.manifest.engines[name] for name in merging if name not in self._elsewhere]
        total = sum(sizes[path] for record in records for path in {record.file, *record.weights})
        return AdapterSet(key, tuple(map(_told, requests)), total, merging)

    def _record(self, part: str) -> Changeable:
        if part not in self._changeable:
            self._changeable[part] = read_changeable(self._bundle, part)
        return self._changeable[part]

    def _adapter(self, request: AdapterRequest) -> Adapter:
        adapter = read_adapter(request, self._encoders(request.role), self._record, f"{request.role} of this bundle")
        if adapter.warning:
            warnings.warn(adapter.warning, AdapterWarning, stacklevel=2)
        return adapter

    def _encoders(self, role: Role) -> dict[str, tuple[str, ...]]:
        """How names begin of what is for each text encoder of a member. Raises RequestError without the member."""
        facts = self._bundle.manifest.facts
        if role not in facts.members:
            raise RequestError(f"an adapter is for {role}, which the bundle does not have", "leave it out")
        return {name: slot.in_loras for name, slot in encoders_read(facts, role).items()}

    def _make_room(self, made: AdapterSet) -> None:
        while self._kept and (len(self._kept) >= self._most_kept or self._too_much(made.size_bytes)):
            self._drop(next(iter(self._kept.values())))
        if self._too_much(made.size_bytes):
            needed, allowed = made.size_bytes / 2**20, (self._cap_bytes or 0) / 2**20
            told = f"engines with these adapters take {needed:.0f} MiB, adapter_cap_mb is {allowed:.0f}"
            raise RequestError(told, "allow more")

    def _too_much(self, more_bytes: int) -> bool:
        kept = sum(one.size_bytes for one in self._kept.values())
        return self._cap_bytes is not None and kept + more_bytes > self._cap_bytes

    def _drop(self, of: AdapterSet) -> None:
        self._kept.pop(of.key, None)
        self._on_drop(of)
        while of.engines:
            of.engines.popitem()[1].close()


def _key(request: AdapterRequest) -> Hashable:
    """What a file that was changed since does not share. Raises RequestError for one that is not there."""
    file = request.file.expanduser()
    try:
        found = file.stat()
    except OSError as err:
        raise RequestError(
            f"adapter {file} cannot be read: {err.strerror or err}", "name a file that is there"
        ) from err
    return request.role, str(file), request.scale, found.st_mtime_ns, found.st_size


def _told(request: AdapterRequest) -> str:
    role = "" if request.role == "large" else f"{request.role}="
    return f"{role}{request.file.stem}:{request.scale:g}"
