"""The denoising loop's memory: the program's buffers at one shape, allocated on first use, shared by every segment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from hsengines.device import Device, Tensor
from hsengines.spec import EngineSpec, TensorSpec, numpy_dtype
from hsruntime.bundle.manifest import Manifest
from hsruntime.facts import RESIDUAL, Facts, Size
from hsruntime.loop.flow import grid_positions
from hsruntime.loop.program import BUFFERS, PROGRAM, Row, buffers_of, expanded, pattern_of
from hsruntime.loop.region import Region, active_count, cache_index, marked_count, merge_index, row_index
from hsruntime.schedule.schedule import Schedule
from hsruntime.text.encode import conditioning_specs

STEPS_TOGETHER = 32
"""Room for steps is a multiple of it, so that schedules of about one length share their buffers."""


@dataclass(frozen=True)
class LoopShape:
    """Everything the loop's shapes depend on."""

    pictures: int  # B
    rows: int  # G: B, or 2B under guidance
    grid: tuple[int, int]  # (h, w) in tokens
    active: int  # M; 0 if the schedule has no region
    steps: int  # S: room for as many, see STEPS_TOGETHER
    text_cached: bool = False  # whether region steps take the text's keys and values from the cache
    references: tuple[tuple[int, int], ...] = ()  # (h, w) in tokens of each picture that these are drawn after

    @classmethod
    def of(
        cls,
        facts: Facts,
        schedule: Schedule,
        size: Size,
        pictures: int,
        *,
        guided: bool,
        marked: np.ndarray | None = None,
        references: Iterable[Size] = (),
    ) -> LoopShape:
        """What a schedule needs for as many pictures of `size` (width, height) pixels at once.

        `marked` are the tokens (h, w) of a region that the caller marked; `references` are sizes of pictures to draw
        after.
        """
        grid, active = facts.latent.grid(size), 0
        if marked is not None:
            active = marked_count(marked)
        elif schedule.has_region:
            active = active_count(schedule.region.ratio, grid[0] * grid[1])
        room = min(facts.most_steps, -(-schedule.steps // STEPS_TOGETHER) * STEPS_TOGETHER)
        cached_text = schedule.has_region and schedule.region.text == "cached"
        rows, others = pictures * (2 if guided else 1), tuple(map(facts.latent.grid, references))
        return cls(pictures, rows, grid, active, room, cached_text, others)

    @property
    def drawn(self) -> int:
        """I, tokens of a picture."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """N: those of the picture, and behind them those of what it is drawn after, which never change."""
        return self.drawn + sum(h * w for h, w in self.references)

    @property
    def cached(self) -> int:
        """R."""
        return self.tokens - self.active


class Layout:
    """The program for one pair and one LoopShape: what its rows and buffers come to."""

    def __init__(self, facts: Facts, specs: Mapping[str, EngineSpec], shape: LoopShape) -> None:
        """`specs` are those of a bundle's engines."""
        large, text = facts.large, facts.text_tokens
        kept = text if shape.text_cached else 0
        counts = {"image": large.image_slots, "text": large.text_slots}
        self._slots = {of: [f"{kv}_{i}" for i in range(count) for kv in "kv"] for of, count in counts.items()}
        self._own = _own(facts, specs)
        self._cache = next(tensor.dtype for tensor in specs["select_cache"].outputs)
        self._dims: dict[str, dict[str | int, str | int]] = {
            "": {"B": "L", "G": "L"},
            "live_given_*": {"G": "L", "T": "V"},
            "active_residual_*": {"G": "L", "T": "V"},
        }
        if facts.small:
            self._dims["small_given_*"] = {"G": "L", "T": facts.text[facts.small.text].tokens}
        self.extents = {
            "B": shape.pictures,
            "G": shape.rows,
            "N": shape.tokens,
            "I": shape.drawn,
            "M": shape.active,
            "R": shape.cached,
            "T": text,
            "U": kept,
            "V": text - kept,
            "H": large.heads,
            "D": large.head_size,
            "P": facts.latent.token_width,
            "S": shape.steps,
        }

    def rows(self, sequences: Iterable[str]) -> Iterator[Row]:
        """Everything that sequences of the program run, each cache slot by name."""
        for name in sequences:
            yield from expanded(PROGRAM[name], self._slots, self._own)

    def tensor(self, buffer: str, rows: int) -> TensorSpec:
        """A buffer with L = `rows`, under the name of the one whose memory it is."""
        pattern = pattern_of(buffer)
        star = buffer[len(pattern) - 1 :]
        own, _, same = BUFFERS[pattern][0].partition(" = ")
        dtype, *letters = own.split()
        dims: tuple[str | int, ...] = tuple(letters)
        if dtype == "own":
            answered, named = self._own[pattern][star], self._dims.get(pattern, self._dims[""])
            dtype, dims = answered.dtype, tuple(named.get(dim, dim) for dim in answered.shape)
            if answered is not self._own[same or pattern][star]:
                same = ""
        elif dtype == "cache":
            dtype = self._cache
        shape = TensorSpec(buffer, dtype, dims).resolve(self.extents | {"L": rows})
        other = self.tensor(same.replace("*", star), rows) if same else None
        return other if other and other.shape == shape else TensorSpec(buffer, dtype, shape)


def _own(facts: Facts, specs: Mapping[str, EngineSpec]) -> dict[str, dict[str, TensorSpec]]:
    """By the buffer that is "own", what the engines answer that fill it."""
    answers = conditioning_specs(facts, specs)
    own = {name.removeprefix("small_"): spec for name, spec in answers.items() if name.startswith("small_")}
    shared = {name: spec for name, spec in answers.items() if not name.startswith("small_")}
    given: dict[str, dict[str, TensorSpec]] = {
        role: {t.name: t for t in specs[f"condition_{role}"].outputs} for role in facts.members
    }
    texts = {"*": shared, "small_*": own or shared}
    found = texts | {"large_given_*": given["large"], "live_given_*": given["large"]}
    found |= {"small_given_*": given["small"]} if facts.small else {}
    taken = specs["light"].inputs if facts.light else ()
    for buffer, tensors in (("residual_*", taken), ("active_residual_*", specs["large"].outputs)):
        found[buffer] = {t.name.removeprefix(RESIDUAL): t for t in tensors if t.name.startswith(RESIDUAL)}
    return found


SHARED = ("*", "small_*", "residual_*")
"""Buffers of which the prompts' rows are not kept twice, for steps of both rows and for those that run them alone."""

ALIGNMENT = 256
"""Bytes at whose multiples an engine's tensor must begin: TensorRT takes no others."""

REGIONAL = ("active_positions", "active_index", "cached_index", "blend_index", "merge_index")
"""Buffers that say where a region's tokens lie."""


class Buffers:
    """The buffers of one loop; what the host writes into one, it holds from the first on."""

    def __init__(
        self, manifest: Manifest, device: Device, shape: LoopShape, conditioning: Mapping[str, Tensor]
    ) -> None:
        self.layout = Layout(manifest.facts, manifest.specs, shape)
        self._device, self._shape = device, shape
        self._positions = {
            role: np.concatenate(
                [grid_positions(model.positions, grid, i) for i, grid in enumerate((shape.grid, *shape.references))]
            )
            for role, model in manifest.facts.members.items()
        }
        # Gathers must never meet rows that are not there: engines are warmed up before a region is chosen.
        self._everything = np.tile(np.arange(shape.tokens, dtype=np.int32), (shape.pictures, 1))
        self._region = Region(self._everything[:, : shape.active], self._everything[:, shape.active :])
        self._made = {self.layout.tensor(name, shape.rows): tensor for name, tensor in conditioning.items()}
        self._copied: dict[str, tuple[Tensor, Tensor]] = {}

    def tensor(self, buffer: str, rows: int | None = None) -> Tensor:
        """The buffer with L = `rows`, by default G; uninitialised the first time unless the host says what it holds."""
        spec = self.layout.tensor(buffer, rows or self._shape.rows)
        if spec not in self._made:
            whole = self.layout.tensor(buffer, self._shape.rows)
            if pattern_of(buffer) in SHARED and spec != whole:
                self._made[spec] = self._tail(buffer, whole, spec)
            else:
                self._made[spec] = self._device.empty(_extents(spec), spec.dtype)
                self._fill(spec, self._made[spec])
        return self._made[spec]

    def _tail(self, buffer: str, whole: TensorSpec, spec: TensorSpec) -> Tensor:
        """The prompts' rows, which come last: as they lie, or a copy that `share` renews where they begin askew."""
        tail = self.tensor(buffer).tail(_extents(spec)[0])
        if (_size_bytes(whole) - _size_bytes(spec)) % ALIGNMENT == 0:
            return tail
        copy = self._device.empty(_extents(spec), spec.dtype)
        self._copied[buffer] = (tail, copy)
        return copy

    def share(self, *patterns: str) -> None:
        """Copies the prompts' rows of shared buffers where no engine takes them as they lie."""
        for buffer, (tail, copy) in self._copied.items():
            if pattern_of(buffer) in patterns:
                copy.copy_from(tail)

    def write(self, buffer: str, value: np.ndarray | float | int) -> None:
        """Fills a buffer from the host, broadcast to its shape; one that nothing is bound to is not there."""
        for spec, tensor in self._made.items():
            if spec.name == buffer:
                _write(tensor, value)

    def write_region(self, region: Region) -> None:
        """Where the active and the cached tokens lie, for every engine that gathers by it."""
        self._region = region
        for spec, tensor in self._made.items():
            if spec.name in REGIONAL:
                self._fill(spec, tensor)

    def _fill(self, spec: TensorSpec, tensor: Tensor) -> None:
        value = self._value(spec.name, _extents(spec))
        if value is not None:
            _write(tensor, value)

    def _value(self, buffer: str, extents: tuple[int, ...]) -> np.ndarray | int | None:
        """What the host writes into a buffer, into those of a region whenever one is chosen."""
        shape, region, rows = self._shape, self._region, extents[0]
        first = shape.rows - rows

        def by_row(by_picture: np.ndarray) -> np.ndarray:
            return np.tile(by_picture, (rows // shape.pictures, 1))

        match buffer:
            case "zero" | "no_excess":
                return 0
            case "uncond":
                return np.arange(shape.pictures)
            case "cond":
                return np.arange(shape.rows - shape.pictures, shape.rows)
            case "large_positions" | "small_positions":
                return self._positions[buffer.removesuffix("_positions")]
            case "picture_index":
                return row_index(shape.tokens, self._everything[:, : shape.drawn])
            case "index":
                return by_row(row_index(shape.tokens, self._everything))
            case "text_index":
                everything = np.tile(np.arange(extents[1], dtype=np.int32), (shape.pictures, 1))
                return cache_index(everything, rows, extents[1], first)
            case "active_positions":
                return self._positions["large"][by_row(region.active)]
            case "active_index":
                return by_row(row_index(shape.tokens, region.active))
            case "cached_index":
                return cache_index(region.cached, rows, shape.tokens, first)
            case "blend_index" | "merge_index":
                return merge_index(region, rows)
        return None


def cache_bytes(facts: Facts, specs: Mapping[str, EngineSpec], shape: LoopShape) -> int:
    """What keys and values take: of the whole picture and the text, and with a region of cached and active tokens."""
    return sum(_sizes(facts, specs, shape, cache=True))


def loop_bytes(facts: Facts, specs: Mapping[str, EngineSpec], shape: LoopShape) -> int:
    """What a loop's tensors take beside what the prompts became; steps of the prompts' rows alone add theirs.

    `specs` are those of a bundle's engines; the cache is nearly all of it.
    """
    return cache_bytes(facts, specs, shape) + sum(_sizes(facts, specs, shape, cache=False))


def _sizes(facts: Facts, specs: Mapping[str, EngineSpec], shape: LoopShape, *, cache: bool) -> Iterator[int]:
    """Of keys and values, or of what else steps of every mode are bound to, of both rows of each picture."""
    layout, sequences = Layout(facts, specs, shape), ["condition large", "large"]
    sequences += ["region", "gather"] if shape.active else []
    sequences += ["condition small", "small", *(["hybrid"] if shape.active else [])] if facts.small else []
    sequences += ["light"] if facts.light else []
    bound = {buffer for row in layout.rows(sequences) for buffer in buffers_of(row)}
    loops = {buffer for buffer in bound if pattern_of(buffer) not in ("*", "small_*")}
    for tensor in {layout.tensor(buffer, shape.rows) for buffer in loops}:
        if BUFFERS[pattern_of(tensor.name)][0].startswith("cache ") == cache:
            yield _size_bytes(tensor)


def _size_bytes(spec: TensorSpec) -> int:
    return prod(_extents(spec)) * numpy_dtype(spec.dtype).itemsize


def _extents(spec: TensorSpec) -> tuple[int, ...]:
    return spec.resolve({})


def _write(tensor: Tensor, value: np.ndarray | float | int) -> None:
    tensor.write(np.ascontiguousarray(np.broadcast_to(np.asarray(value, tensor.dtype), tensor.shape)))
