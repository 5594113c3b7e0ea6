"""What will not fit where it is to go, and what would make it fit."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hsengines.files import bytes_text
from hsengines.weights import formats_in
from hsexport.plan.gpus import GPUS, Gpu
from hsexport.plan.machine import Machine
from hsexport.plan.stages import StagePlan
from hsexport.plan.work import RunMemory
from hsruntime.facts import Size, Sizes, size_text

GB = 1e9


@dataclass(frozen=True)
class Shortfall:
    """Something that finds no room; `certain` says that a build could not be finished."""

    what: str
    needed_bytes: int
    found_bytes: int
    hints: tuple[str, ...]
    certain: bool = False

    def __str__(self) -> str:
        return f"{self.what} needs {bytes_text(self.needed_bytes)}, {bytes_text(self.found_bytes)} are there"


def disk_shortfalls(stages: Sequence[StagePlan], machine: Machine) -> Iterator[Shortfall]:
    """Of every disk that a build writes to."""
    for what, needed, free, hint in _disks(stages, machine):
        if needed > free:
            yield Shortfall(what, needed, free, ("free some space", hint), certain=True)


def _disks(stages: Sequence[StagePlan], machine: Machine) -> Iterator[tuple[str, int, int, str]]:
    """What goes there, bytes needed and free, and what else would help.

    What the cache holds counts as free, for it may be just this. A download beside it takes of the same bytes.
    """
    needed = {stage.name: stage.disk_bytes for stage in stages}
    bundle, download = needed.pop("pack", 0), machine.download
    if download and not download.beside_cache:
        hint = "set HF_HUB_CACHE to a folder on another disk"
        yield "the download", needed.pop("download"), download.free_bytes, hint
    what = "the download with the cache" if "download" in needed else "the cache"
    yield what, sum(needed.values()), machine.cache_free_bytes + machine.held_bytes, "name another --cache"
    yield "the bundle", bundle, machine.out_free_bytes, "name another --out"


def memory_shortfalls(stages: Sequence[StagePlan], machine: Machine) -> Iterator[Shortfall]:
    """Of every stage that needs more than this machine has left."""
    for stage in stages:
        if stage.host_bytes > machine.memory_bytes:
            hints = ("close other programs", "build on a machine with more memory")
            what = f"the stage {stage.name}"
            yield Shortfall(what, stage.host_bytes, machine.memory_bytes, hints, certain=stage.certain)


@dataclass(frozen=True)
class Choices:
    """What could be given up for room on a device; `memory` counts anew for a size and a number of pictures."""

    sizes: Sizes
    memory: Callable[[Size, int], RunMemory]
    optional_bytes: Mapping[str, int]
    """What the family lets a build leave out, by its name, and its weights."""
    streams_weights: bool
    halves: bool
    """Whether a narrower precision is to be had."""
    stored_bytes: Callable[[str], int]
    """Of all weights with `--weights` as the text has it."""
    formats: tuple[str, ...] = ()
    """That they could be stored in."""


def device_shortfalls(machine: Machine, gpu: Gpu | None, choices: Choices, *, on_cpu: bool) -> Iterator[Shortfall]:
    """For the most that the bundle allows: the largest size, as many pictures as it takes; on `gpu`, or here by CPU."""
    if gpu is None and not on_cpu:
        return
    what, room = (gpu.name, int(gpu.memory_gb * GB)) if gpu else ("this machine", machine.memory_bytes)
    worst = choices.memory(choices.sizes.maximum, choices.sizes.max_batch)
    if worst.total_bytes > room:
        at = f"{worst.pictures} of {size_text(worst.size)} at once" if worst.pictures > 1 else size_text(worst.size)
        yield Shortfall(f"{at} on {what}", worst.total_bytes, room, _hints(worst, room, choices))


def _hints(worst: RunMemory, room: int, choices: Choices) -> tuple[str, ...]:
    """Each that is enough by itself; else the least that the bundle can be, with one more saving; else a larger GPU."""
    if single := tuple(_single_hints(worst, room, choices)):
        return single
    least = choices.memory(choices.sizes.default, 1)
    fewest = f"--max-batch 1 --max-size {size_text(choices.sizes.default)}"
    together = ((0, fewest), *((saved, f"{fewest} and {words}") for saved, words in _savings(least, choices)))
    fitting = (words for saved, words in together if least.total_bytes - saved <= room)
    return (next(fitting, None) or _larger_gpu(least.total_bytes),)


def _single_hints(worst: RunMemory, room: int, choices: Choices) -> Iterator[str]:
    fewer = range(1, worst.pictures)
    if fits := bisect_right(fewer, room, key=lambda pictures: choices.memory(worst.size, pictures).total_bytes):
        yield f"--max-batch {fewer[fits - 1]}"
    default = choices.sizes.default
    if default != worst.size and choices.memory(default, worst.pictures).total_bytes <= room:
        yield f"--max-size {size_text(default)}"
    for saved, words in _savings(worst, choices):
        if worst.total_bytes - saved <= room:
            yield words


def _savings(memory: RunMemory, choices: Choices) -> Iterator[tuple[int, str]]:
    """Bytes and how they are saved; the first is the mildest."""
    for name, saved in choices.optional_bytes.items():
        if saved:
            yield saved, f"--without-{name} ({bytes_text(saved)})"
    if choices.halves:
        yield memory.weights_bytes // 2 + memory.cache_bytes // 2, "--precision bf16 on a GPU backend"
    for words in MILDEST:
        if all(format in choices.formats for format in formats_in(words)):
            saved = memory.weights_bytes - choices.stored_bytes(words)
            if saved > 0:
                yield saved, f"--weights {words} ({bytes_text(saved)})"
    if choices.streams_weights:
        yield memory.weights_bytes, "--weight-streaming (slower: weights come over the bus)"


MILDEST = ("text=int8", "int8", "int4,text=int8", "int4")
"""Ways to store weights, the one that loses least first: what text encoders lose in 8 bits no picture shows."""


def _larger_gpu(needed: int) -> str:
    names = [gpu.name for gpu in GPUS.values() if gpu.memory_gb * GB >= needed]
    return f"a larger GPU: {', '.join(names)}" if names else "a machine with more memory"
