"""LoRA files: which weights of a transformer they change, by what and how strongly; read by their headers, and fused.

A checkpoint's own files stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hsexport.checkpoints.documents import AGAIN, PairError, number, read_document, shown
from hsexport.checkpoints.shards import (
    Place,
    TensorHeader,
    check_finite,
    check_is_safetensors,
    chunks_of,
    file_headers,
    read_header,
    read_into,
)
from hsexport.checkpoints.source import Role
from hsexport.checkpoints.weights.weights import DTYPES, Changed, Stored, Weight
from hsruntime.bundle.reader import sha256_of

PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.", "lora_unet_", "lora_transformer_", "lycoris_")
SIDES = {
    ".lora_A.weight": "down",
    ".lora_A.default.weight": "down",
    ".lora_down.weight": "down",
    ".lora_B.weight": "up",
    ".lora_B.default.weight": "up",
    ".lora_up.weight": "up",
    ".alpha": "alpha",
}
PLAIN_ONLY = "only plain LoRA is fused: give it merged into a checkpoint instead"
OF_TEXT_ENCODERS = ("text_encoder", "lora_te")
"""How names begin of what a file holds for text encoders, which are left as they are."""
# Part of a tensor's name -> what it says of the file.
REFUSED = {
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
        if header.name.startswith(OF_TEXT_ENCODERS):
            continue
        module, side = _read_name(file, header)
        sides.setdefault(module, {})[side] = header
    if not sides:
        raise PairError(f"{file} is a LoRA without a part for the transformer", "give one of the transformer")
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
        if len(found[side].shape) < 2 or 0 in found[side].shape or found[side].dtype not in DTYPES:
            said = f"{found[side].dtype}{list(found[side].shape)}"
            raise PairError(f"{file}: {found[side].name} is {said}, expected a matrix of floats", AGAIN)
    matrices = Matrices(module, found["down"], found["up"], found.get("alpha"))
    if matrices.up.shape[1] != matrices.rank or any(extent != 1 for extent in matrices.up.shape[2:]):
        shapes = f"{list(matrices.up.shape)} and {list(matrices.down.shape)}"
        raise PairError(f"{file} is a broken LoRA: the matrices of {module} are {shapes}, which have no product", AGAIN)
    return matrices


DIFFUSERS_SETTINGS = "lora_adapter_metadata"  # in the header of a file that save_lora_weights wrote
PEFT_SETTINGS = "adapter_config.json"  # beside a file that PEFT's save_pretrained wrote
KOHYA_ALPHA = "ss_network_alpha"  # in the header of a file that kohya's scripts wrote
FLAT_ALPHAS = ("transformer.lora_alpha", "lora_alpha", KOHYA_ALPHA)
"""A header's own entries, where an alpha may stand by itself."""


Factor = Callable[[Matrices], float]
"""What the product up @ down of a module is multiplied by."""


def factor_of(file: Path) -> Factor:
    """As the file's own header has it, or for PEFT's files the configuration beside it."""
    header, _ = read_header(file)
    metadata = header.get("__metadata__") or {}
    if DIFFUSERS_SETTINGS in metadata:
        return _factor_from(_settings_in(file, metadata[DIFFUSERS_SETTINGS]), file)
    flat = next((name for name in FLAT_ALPHAS if name in metadata), None)
    if flat is not None:
        return _factor_from({"lora_alpha": _number_in(file, flat, metadata[flat])}, file)
    if any(name.startswith("base_model.model.") for name in header):
        return _factor_from(read_document(file.parent / PEFT_SETTINGS), file.parent / PEFT_SETTINGS)
    return _factor_from({}, file)


def _settings_in(file: Path, written: str) -> dict[str, Any]:
    try:
        return {key.removeprefix("transformer."): value for key, value in json.loads(written).items()}
    except (ValueError, AttributeError, TypeError, RecursionError) as err:
        raise PairError(f"{file} is a broken LoRA: its {DIFFUSERS_SETTINGS} holds no settings", AGAIN) from err


def _number_in(file: Path, name: str, written: str) -> float:
    """What a header says in words; headers hold nothing but texts."""
    try:
        return float(json.loads(written))
    except (ValueError, TypeError, RecursionError) as err:
        raise PairError(f"{file} is a broken LoRA: its {name} is {shown(written)}, expected a number", AGAIN) from err


def _factor_from(settings: dict[str, Any], file: Path) -> Factor:
    """Of PEFT's LoraConfig: `alpha_pattern` has ends of modules' names. PEFT takes them for regular expressions, which
    nobody's files need, and which could keep a build busy for ever.
    """
    ends = settings.get("alpha_pattern") or {}
    if not isinstance(ends, dict):
        raise PairError(f"{file} has alpha_pattern {shown(ends)}, expected numbers by module", AGAIN)
    alphas = {end: number(ends, end, file) for end in ends}
    default = number(settings, "lora_alpha", file) if "lora_alpha" in settings else None

    def factor(found: Matrices) -> float:
        """1 where nobody wrote an alpha, as in diffusers; rsLoRA divides by the rank's square root."""
        if found.alpha is not None:
            return _alpha_in(found.alpha) / found.rank
        matching = (alpha for end, alpha in alphas.items() if f".{found.module}".endswith(f".{end}"))
        alpha = next(matching, found.rank if default is None else default)
        return alpha / (math.sqrt(found.rank) if settings.get("use_rslora") else found.rank)

    return factor


def _alpha_in(header: TensorHeader) -> float:
    """The one number of a tensor, of floats or of whole numbers."""
    if header.elements != 1 or header.dtype not in ALPHAS:
        said = f"{header.dtype}{list(header.shape)}"
        raise PairError(f"{header.file}: {header.name} is {said}, expected one number", AGAIN)
    data = np.empty(header.size_bytes, np.uint8)
    read_into(data.data, header)
    check_finite(header, data)
    return float(data.view(ALPHAS[header.dtype])[0])


ALPHAS = DTYPES | {"I64": np.dtype(np.int64), "I32": np.dtype(np.int32), "I16": np.dtype(np.int16)}
"""The element types that an alpha may have."""
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
    left_out: int = 0
    """Tensors for text encoders, which are not fused."""

    @property
    def digest(self) -> str:
        """Of all that it does to the weights."""
        return hashlib.sha256(f"{self.sha256} {self.scale!r}".encode()).hexdigest()


def read_adapter(
    request: AdapterRequest, tensors: Mapping[str, TensorHeader], places: Mapping[str, Place], told: str
) -> Adapter:
    """The LoRA in a file, every update of it set beside the weight that it changes.

    `tensors` are the weights by diffusers' names, `places` where another layout has them, whose modules it may name;
    `told` is what messages call the member. What is meant for text encoders is left out and counted. Raises PairError
    for what cannot be fused whole: DoRA, LoKr, modules that the member lacks, numbers that are not finite.
    """
    file = request.file.expanduser()
    if not file.is_file():
        raise PairError(f"--lora: {file} is not a file", "give a LoRA as one safetensors file")
    check_is_safetensors(file)
    headers = list(file_headers(file))
    matrices = matrices_in(file, headers)
    for header in headers:
        for chunk in chunks_of(header):
            check_finite(header, chunk)
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
    return Adapter(
        file,
        request.scale,
        sha256_of(file),
        updates,
        sum(header.name.startswith(OF_TEXT_ENCODERS) for header in headers),
    )


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
