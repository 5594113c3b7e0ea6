"""Where another layout has diffusers' tensors: what diffusers' converters copy, as places."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from hsexport.checkpoints.shards import Place

Places = Iterable[tuple[str, Place]]
"""Module or tensor by diffusers' name, and its place."""


def renamed(names: Mapping[str, str]) -> Places:
    """Whole modules: diffusers' names -> those of the other layout."""
    return [(name, Place(source)) for name, source in names.items()]


def cut(fused: Mapping[tuple[str, ...], str]) -> Places:
    """Modules that lie one behind the other in a fused one, each as high as the next."""
    for names, source in fused.items():
        for number, name in enumerate(names):
            yield name, Place(source, len(names), (number,))


def halves_swapped(source: str) -> Place:
    """Modulations as (shift, scale), where diffusers' AdaLayerNormContinuous takes (scale, shift)."""
    return Place(source, 2, (1, 0))


def inside(ours: str, theirs: str, places: Places) -> Iterator[tuple[str, Place]]:
    """The same in a block, which diffusers calls `ours` and the other layout `theirs`."""
    for name, place in places:
        yield f"{ours}.{name}", replace(place, source=f"{theirs}.{place.source}")


def tensors_of(modules: Places, kinds: Callable[[str], Mapping[str, str]]) -> dict[str, Place]:
    """Places of tensors; `kinds` answers what each module has by diffusers' name, and by the other layout's."""
    return {
        f"{module}.{kind}": replace(place, source=f"{place.source}.{theirs}")
        for module, place in modules
        for kind, theirs in kinds(module).items()
    }
