"""LoRA files: which weights of a transformer they change, by what and how strongly; read by their headers, and fused.

A checkpoint's own files stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hsexport.checkpoints.documents import AGAIN, PairError, number, read_document
from hsexport.checkpoints.shards import Place, TensorHeader, check_is_safetensors, file_headers, read_header
from hsexport.checkpoints.source import Role
from hsexport.checkpoints.weights.weights import DTYPES, Changed, Stored, Weight
from hsruntime.bundle.reader import sha256_of

PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.", "lora_unet_", "lora_transformer_")
SIDES = {
    ".lora_A.weight": "down",
    ".lora_A.default.weight": "down",
    ".lora_down.weight": "down",
    ".lora_B.weight": "up",
    ".lora_B.default.weight": "up",
    ".lora_up.weight": "up",
    ".alpha": "alpha",
}
TRANSFORMER_ONLY = "text encoders are not fused: give a LoRA of the transformer alone"
PLAIN_ONLY = "only plain LoRA is fused: give it merged into a checkpoint instead"
# Part of a tensor's name -> what it says of the file.
REFUSED = {
    "text_encoder": ("changes a text encoder", TRANSFORMER_ONLY),
    "lora_te": ("changes a text encoder", TRANSFORMER_ONLY),
    "dora_scale": ("is a DoRA", PLAIN_ONLY),
    "lora_magnitude_vector": ("is a DoRA", PLAIN_ONLY),
    ".lokr_": ("is a LoKr", PLAIN_ONLY),
    ".hada_": ("is a LoHa", PLAIN_ONLY),
}


@dataclass(frozen=True)
class Matrices:
    """One module's part of a LoRA: down is A (rank, in), up is B (out, rank), a convolution's window behind them."""

    module: str
    down: TensorHeader
    up: TensorHeader
    alpha: TensorHeader | None
    factor: float = 1.0
    """What their product is added with."""

    @property
    def rank(self) -> int:
        """The extent that both have."""
        return self.down.shape[0]


def matrices_in(file: Path, headers: Iterable[TensorHeader]) -> dict[str, Matrices]:
    """Module, as the file calls it without the prefix -> its matrices. The first foreign name is told."""
    sides: dict[str, dict[str, TensorHeader]] = {}
    for header in headers:
        module, side = _read_name(file, header)
        sides.setdefault(module, {})[side] = header
    if not sides:
        raise PairError(f"{file} is an empty LoRA", AGAIN)
    return {module: _matrices(file, module, found) for module, found in sides.items()}


def _read_name(file: Path, header: TensorHeader) -> tuple[str, str]:
    for fragment, (what, hint) in REFUSED.items():
        if fragment in header.name:
            raise PairError(f"{file} {what}: it holds {header.name}", hint)
    for suffix, side in SIDES.items():
        if header.name.endswith(suffix):
            name = header.name.removesuffix(suffix)
            prefix = next(filter(name.startswith, PREFIXES), "")
            return name.removeprefix(prefix), side
    raise PairError(
        f"{file} holds {header.name}, which is no LoRA's; expected MODULE.lora_A.weight and MODULE.lora_B.weight, "
        "or kohya's lora_unet_MODULE.lora_down.weight and .lora_up.weight",
        "give a LoRA that diffusers, PEFT or kohya's scripts wrote for this transformer",
    )


def _matrices(file: Path, module: str, found: dict[str, TensorHeader]) -> Matrices:
    for side in ("down", "up"):
        if side not in found:
            raise PairError(f"{file} is a broken LoRA: {module} has one of its two matrices alone", AGAIN)
        if len(found[side].shape) < 2 or found[side].dtype not in DTYPES:
            said = f"{found[side].dtype}{list(found[side].shape)}"
            raise PairError(f"{file}: {found[side].name} is {said}, expected a matrix of floats", AGAIN)
    matrices = Matrices(module, found["down"], found["up"], found.get("alpha"))
    if matrices.up.shape[1] != matrices.rank or any(extent != 1 for extent in matrices.up.shape[2:]):
        shapes = f"{list(matrices.up.shape)} and {list(matrices.down.shape)}"
        raise PairError(f"{file} is a broken LoRA: the matrices of {module} are {shapes}, which have no product", AGAIN)
    return matrices


DIFFUSERS_SETTINGS = "lora_adapter_metadata"  # in the header of a file that save_lora_weights wrote
PEFT_SETTINGS = "adapter_config.json"  # beside a file that PEFT's save_pretrained wrote


Factor = Callable[[Matrices], float]
"""What the product up @ down of a module is multiplied by."""


def factor_of(file: Path) -> Factor:
    """As the file's own header has it, or for PEFT's files the configuration beside it."""
    header, _ = read_header(file)
    written = (header.get("__metadata__") or {}).get(DIFFUSERS_SETTINGS)
    if written is not None:
        try:
            settings = {key.removeprefix("transformer."): value for key, value in json.loads(written).items()}
        except (ValueError, AttributeError, TypeError) as err:
            raise PairError(f"{file} is a broken LoRA: its {DIFFUSERS_SETTINGS} holds no settings", AGAIN) from err
        return _factor_from(settings, file)
    if any(name.startswith("base_model.model.") for name in header):
        return _factor_from(read_document(file.parent / PEFT_SETTINGS), file.parent / PEFT_SETTINGS)
    return _factor_from({}, file)


def _factor_from(settings: dict[str, Any], file: Path) -> Factor:
    """Of PEFT's LoraConfig: `alpha_pattern` are regular expressions over the end of a module's name."""
    patterns = settings.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise PairError(f"{file} has alpha_pattern {patterns!r}, expected numbers by module", AGAIN)
    alphas = {pattern: number(patterns, pattern, file) for pattern in patterns}
    default = number(settings, "lora_alpha", file) if "lora_alpha" in settings else None

    def factor(found: Matrices) -> float:
        """1 where nobody wrote an alpha, as in diffusers; rsLoRA divides by the rank's square root."""
        if found.alpha is not None:
            return float(Stored(found.alpha).read().reshape(-1)[0]) / found.rank
        matching = (alpha for pattern, alpha in alphas.items() if re.match(rf"(.*\.)?({pattern})$", found.module))
        alpha = next(matching, found.rank if default is None else default)
        return alpha / (math.sqrt(found.rank) if settings.get("use_rslora") else found.rank)

    return factor


ANOTHER = "is it a LoRA for another model, or for the other member? --lora large=FILE, --lora small=FILE"


@dataclass(frozen=True)
class AdapterRequest:
    """A LoRA as the user asked for it: fuse `scale` times of `file` into `role`."""

    role: Role
    file: Path
    scale: float = 1.0


@dataclass(frozen=True)
class Adapter:
    """A LoRA that fits its transformer; `updates` by diffusers' names of the weights they change."""

    file: Path
    scale: float
    sha256: str
    """Of the file."""
    updates: Mapping[str, Matrices] = field(repr=False)

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
    updates: dict[str, Matrices] = {}
    targets, factor = _targets_of(tensors, places), factor_of(file)
    for module, found in matrices.items():
        changed = targets.get(module.replace(".", "_"))
        if changed is None:
            raise PairError(f"{file} changes {module}, which {told} does not have", ANOTHER)
        for name, update in _updates(request, found, changed, request.scale * factor(found)):
            _check_fits(file, tensors[name].shape, told, name, update)
            if updates.setdefault(name, update) is not update:
                raise PairError(f"{file} is a broken LoRA: it changes {name} twice", AGAIN)
    return Adapter(file, request.scale, sha256_of(file), updates)


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
    request: AdapterRequest, found: Matrices, targets: tuple[tuple[str, Place], ...], factor: float
) -> Iterator[tuple[str, Matrices]]:
    for name, place in targets:
        if found.up.shape[0] % place.parts:
            raise PairError(
                f"{request.file}: {found.up.name} is {list(found.up.shape)}, expected rows for {place.parts} weights",
                ANOTHER,
            )
        yield name, replace(found, up=place.taken_from(found.up, found.up.name), factor=factor)


def _check_fits(file: Path, expected: tuple[int, ...], told: str, name: str, update: Matrices) -> None:
    """Refuses a product of another shape than the weight it is added to; a convolution's counts its window."""
    found = update.up.shape[0], *update.down.shape[1:]
    if found != expected:
        raise PairError(f"{file} adds {list(found)} to {name}, which is {list(expected)} in {told}", ANOTHER)


def fused(weights: Mapping[str, Weight], adapters: Iterable[Adapter]) -> dict[str, Weight]:
    """All of `weights`, by diffusers' names, with every adapter added to those it changes.

    A changed weight reads as float32. Nothing is read before somebody reads it. The adapters fit: `read_adapter` saw
    to it.
    """
    result = dict(weights)
    for adapter in adapters:
        for name, update in adapter.updates.items():
            result[name] = Changed(result[name], result[name].shape, partial(_added, update))
    return result


def _added(update: Matrices, weight: np.ndarray) -> np.ndarray:
    """W + factor * up @ down, in float32."""
    up, down = (Stored(header).read().astype(np.float32) for header in (update.up, update.down))
    product = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
    return weight.astype(np.float32) + np.float32(update.factor) * product.reshape(weight.shape)
