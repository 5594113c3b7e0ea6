"""LoRA files: which weights of a transformer they change, and by what; read by their headers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hsexport.checkpoints.errors import PairError
from hsexport.checkpoints.foreign_files import check_is_safetensors
from hsexport.checkpoints.pieces import Place
from hsexport.checkpoints.shards import AGAIN, TensorHeader, file_headers
from hsexport.checkpoints.source import Role
from hsexport.checkpoints.weights.adapter_alpha import Alphas, alphas_of
from hsexport.checkpoints.weights.adapter_keys import Matrices, matrices_in

ANOTHER = "is it a LoRA for another model, or for the other member? --lora large=FILE, --lora small=FILE"


@dataclass(frozen=True)
class AdapterRequest:
    """A LoRA as the user asked for it: fuse `scale` times of `file` into `role`."""

    role: Role
    file: Path
    scale: float = 1.0


@dataclass(frozen=True)
class Update:
    """What one weight gets added: `factor` times the product up @ down of two small matrices."""

    down: TensorHeader
    up: TensorHeader
    factor: float


@dataclass(frozen=True)
class Adapter:
    """A LoRA that fits its transformer; `updates` by diffusers' names of the weights they change."""

    file: Path
    scale: float
    sha256: str
    """Of the file."""
    updates: Mapping[str, Update] = field(repr=False)

    @property
    def digest(self) -> str:
        """Of all that it does to the weights."""
        return hashlib.sha256(f"{self.sha256} {self.scale!r}".encode()).hexdigest()


def read_adapter(
    request: AdapterRequest, tensors: Mapping[str, TensorHeader], places: Mapping[str, Place], told: str
) -> Adapter:
    """The LoRA in a file, every update of it set beside the weight that it changes.

    `tensors` are the weights by diffusers' names, `places` where another layout has them, whose modules it may name;
    `told` is what messages call the member. Raises PairError for what cannot be fused whole: text encoders, DoRA, LoKr,
    modules that the member lacks.
    """
    file = request.file.expanduser()
    if not file.is_file():
        raise PairError(f"--lora: {file} is not a file", "give a LoRA as one safetensors file")
    check_is_safetensors(file)
    matrices = matrices_in(file, file_headers(file))
    updates: dict[str, Update] = {}
    targets, alphas = _targets_of(tensors, places), alphas_of(file)
    for module, found in matrices.items():
        changed = targets.get(module.replace(".", "_"))
        if changed is None:
            raise PairError(f"{file} changes {module}, which {told} does not have", ANOTHER)
        for name, update in _updates(request, found, changed, alphas):
            _check_fits(file, tensors[name].shape, told, name, update)
            if updates.setdefault(name, update) is not update:
                raise PairError(f"{file} is a broken LoRA: it changes {name} twice", AGAIN)
    with file.open("rb") as stream:
        return Adapter(file, request.scale, hashlib.file_digest(stream, "sha256").hexdigest(), updates)


Targets = Mapping[str, tuple[tuple[str, Place], ...]]


def _targets_of(tensors: Mapping[str, TensorHeader], places: Mapping[str, Place]) -> Targets:
    """Module, dots as underscores -> the weights of diffusers' that it is, and which of its rows they are.

    In another layout one module may be three weights; kohya's scripts train those modules.
    """
    targets: dict[str, tuple[tuple[str, Place], ...]] = {}
    for name, place in places.items():
        if place.source.endswith(".weight"):
            module = place.source.removesuffix(".weight").replace(".", "_")
            targets[module] = (*targets.get(module, ()), (name, place))
    for name in tensors:
        if name.endswith(".weight"):
            targets.setdefault(name.removesuffix(".weight").replace(".", "_"), ((name, Place("")),))
    return targets


def _updates(
    request: AdapterRequest, found: Matrices, targets: tuple[tuple[str, Place], ...], alphas: Alphas
) -> Iterator[tuple[str, Update]]:
    factor = request.scale * alphas.factor(found)
    for name, place in targets:
        if found.up.shape[0] % place.parts:
            raise PairError(
                f"{request.file}: {found.up.name} is {list(found.up.shape)}, expected rows for {place.parts} weights",
                ANOTHER,
            )
        yield name, Update(found.down, place.taken_from(found.up, found.up.name), factor)


def _check_fits(file: Path, expected: tuple[int, ...], told: str, name: str, update: Update) -> None:
    """Refuses a product of another shape than the weight it is added to; a convolution's counts its window."""
    found = update.up.shape[0], *update.down.shape[1:]
    if found != expected:
        raise PairError(f"{file} adds {list(found)} to {name}, which is {list(expected)} in {told}", ANOTHER)
