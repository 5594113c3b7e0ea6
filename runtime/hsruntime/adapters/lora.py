"""LoRA files: which weights of a transformer and of text encoders they change, by what and how strongly.

They are read by their headers.
A build and a session read them here, and add them by the same sum: `added`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hsengines.errors import first_line
from hsruntime.adapters.changeable import Changeable, Role
from hsruntime.adapters.documents import AGAIN, PairError, number, read_document, shown
from hsruntime.adapters.headers import (
    DTYPES,
    Place,
    TensorHeader,
    check_finite,
    check_is_safetensors,
    chunks_of,
    file_headers,
    numbers_of,
    read_bytes,
    read_header,
)
from hsruntime.bundle.reader import sha256_of

PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.", "lora_unet_", "lora_transformer_", "lycoris_")
SIDES = {
    ".lora_A.weight": "down",
    ".lora_A.default.weight": "down",
    ".lora_down.weight": "down",
    ".lora_B.weight": "up",
    ".lora_B.default.weight": "up",
    ".lora_up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".alpha": "alpha",
}
PLAIN_ONLY = "only plain LoRA is fused: give it merged into a checkpoint instead"
OF_TEXT_ENCODERS = ("text_encoder", "lora_te")
"""How names begin of what a file holds for text encoders, those that are not there among them."""
REFUSED = {"dora_scale": "a DoRA", "lora_magnitude_vector": "a DoRA", ".lokr_": "a LoKr", ".hada_": "a LoHa"}
"""Part of a tensor's name -> what it says of the file."""
DIFFUSERS_SETTINGS = "lora_adapter_metadata"  # in the header of a file that save_lora_weights wrote
PEFT_SETTINGS = "adapter_config.json"  # beside a file that PEFT's save_pretrained wrote
FLAT_ALPHAS = ("lora_alpha", "ss_network_alpha")
"""A header's own entries, where an alpha may stand by itself, PEFT's behind a part's name, too, and kohya's."""
ALPHAS = DTYPES | {"I64": np.dtype(np.int64), "I32": np.dtype(np.int32), "I16": np.dtype(np.int16)}
"""The element types that an alpha may have."""
ANOTHER = "is it a LoRA for another model, or for the other member? --lora large=FILE, --lora small=FILE"

Sides = dict[str, TensorHeader]
"""One module's part of a LoRA: down is A (rank, in), up is B (out, rank), a convolution's window behind them; alpha."""


def _parts_of(
    headers: Iterable[TensorHeader], role: Role, encoders: Mapping[str, Sequence[str]]
) -> dict[str, list[TensorHeader]]:
    """The tensors by what they are for: the member, a text encoder, or "" for encoders that are not there."""
    parts: dict[str, list[TensorHeader]] = {}
    for header in headers:
        whole = "" if header.name.startswith(OF_TEXT_ENCODERS) else role
        found = (part for part, prefixes in encoders.items() if header.name.startswith(tuple(prefixes)))
        parts.setdefault(next(found, whole), []).append(header)
    return parts


def _modules_in(file: Path, headers: Iterable[TensorHeader], prefixes: Sequence[str]) -> dict[str, Sides]:
    """Module, as the file calls it without the prefix -> its tensors. The first foreign name is told."""
    modules: dict[str, Sides] = {}
    for header in headers:
        module, side = _read_name(file, header)
        modules.setdefault(_bare(module, prefixes), {})[side] = header
    for module, found in modules.items():
        _check_product(file, module, found)
    return modules


def _bare(name: str, prefixes: Sequence[str]) -> str:
    """Without the first of the prefixes that it has."""
    return name.removeprefix(next(filter(name.startswith, prefixes), ""))


def _read_name(file: Path, header: TensorHeader) -> tuple[str, str]:
    for fragment, kind in REFUSED.items():
        if fragment in header.name:
            raise PairError(f"{file} is {kind}: it holds {header.name}", PLAIN_ONLY)
    for suffix, side in SIDES.items():
        if header.name.endswith(suffix):
            return header.name.removesuffix(suffix), side
    raise PairError(
        f"{file} holds {header.name}, which is no LoRA's; expected MODULE.lora_A.weight and MODULE.lora_B.weight, "
        "or kohya's lora_unet_MODULE.lora_down.weight and .lora_up.weight",
        "give a LoRA that diffusers, PEFT or kohya's scripts wrote for this model",
    )


def _check_product(file: Path, module: str, found: Sides) -> None:
    if not {"down", "up"} <= found.keys():
        raise PairError(f"{file} is a broken LoRA: {module} has one of its two matrices alone", AGAIN)
    down, up = found["down"], found["up"]
    for header in (down, up):
        if len(header.shape) < 2 or 0 in header.shape or header.dtype not in DTYPES:
            said = f"{header.dtype}{list(header.shape)}"
            raise PairError(f"{file}: {header.name} is {said}, expected a matrix of floats", AGAIN)
    if up.shape[1] != down.shape[0] or any(extent != 1 for extent in up.shape[2:]):
        shapes = f"{list(up.shape)} and {list(down.shape)}"
        raise PairError(f"{file} is a broken LoRA: the matrices of {module} are {shapes}, which have no product", AGAIN)


def _factors_of(file: Path, prefixes: Sequence[str]) -> Callable[[str, Sides], float]:
    """What each module's product is multiplied by, as the file's own header has it, or the configuration beside it.

    `prefixes` are those of the modules' part: settings of several parts stand beside one another.
    """
    header, _ = read_header(file)
    metadata = header.get("__metadata__") or {}
    alphas = (*(f"{prefix}{FLAT_ALPHAS[0]}" for prefix in prefixes), *FLAT_ALPHAS)
    flat = next((name for name in alphas if name in metadata), None)
    try:
        if DIFFUSERS_SETTINGS in metadata:
            settings = json.loads(metadata[DIFFUSERS_SETTINGS]).items()
            return _factors_from({_bare(key, prefixes): value for key, value in settings}, file)
        if flat is not None:
            return _factors_from({"lora_alpha": json.loads(metadata[flat])}, file)
    except (ValueError, AttributeError, RecursionError) as err:
        said = f"its {flat or DIFFUSERS_SETTINGS} is not what settings are written in"
        raise PairError(f"{file} is a broken LoRA: {said} ({first_line(err)})", AGAIN) from err
    if any(name.startswith("base_model.model.") for name in header):
        return _factors_from(read_document(file.parent / PEFT_SETTINGS), file.parent / PEFT_SETTINGS)
    return _factors_from({}, file)


def _factors_from(settings: dict[str, Any], file: Path) -> Callable[[str, Sides], float]:
    """Of PEFT's LoraConfig: `alpha_pattern` has ends of modules' names. PEFT takes them for regular expressions, which
    nobody's files need, and which could keep a build busy for ever.
    """
    ends = settings.get("alpha_pattern") or {}
    if not isinstance(ends, dict):
        raise PairError(f"{file} has alpha_pattern {shown(ends)}, expected numbers by module", AGAIN)
    alphas = {end: number(ends, end, file) for end in ends}
    default = number(settings, "lora_alpha", file) if "lora_alpha" in settings else None

    def factor(module: str, found: Sides) -> float:
        """1 where nobody wrote an alpha, as in diffusers; rsLoRA divides by the rank's square root."""
        rank = found["down"].shape[0]
        if "alpha" in found:
            return _alpha_in(found["alpha"]) / rank
        matching = (alpha for end, alpha in alphas.items() if f".{module}".endswith(f".{end}"))
        alpha = next(matching, rank if default is None else default)
        return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)

    return factor


def _alpha_in(header: TensorHeader) -> float:
    """The one number of a tensor, of floats or of whole numbers."""
    if header.elements != 1 or header.dtype not in ALPHAS:
        said = f"{header.dtype}{list(header.shape)}"
        raise PairError(f"{header.file}: {header.name} is {said}, expected one number", AGAIN)
    return float(read_bytes(header).view(ALPHAS[header.dtype])[0])


@dataclass(frozen=True)
class Update:
    """What is added to a weight: `factor` times the product of up (out, rank) and down (rank, in)."""

    down: TensorHeader
    up: TensorHeader
    factor: float


@dataclass(frozen=True)
class AdapterRequest:
    """A LoRA as the user asked for it: fuse `scale` times of `file` into `role`."""

    role: Role
    file: Path
    scale: float = 1.0


@dataclass(frozen=True)
class Adapter:
    """A LoRA that fits what it is for."""

    file: Path
    scale: float
    sha256: str
    """Of the file."""
    updates: Mapping[str, Mapping[str, Update]] = field(repr=False)
    """Of a member, by its role, and of text encoders, by their engines: each by the names of the weights it changes."""
    left_out: int = 0
    """Tensors for text encoders that are not there."""

    @property
    def warning(self) -> str:
        """What is left out, in a line; "" for nothing."""
        count, changed = self.left_out, "also changes text encoders that are not there"
        return f"{self.file} {changed} ({count} tensors): that part is left out" if count else ""

    @property
    def digest(self) -> str:
        """Of all that it does to the weights."""
        return hashlib.sha256(f"{self.sha256} {self.scale!r}".encode()).hexdigest()


def read_adapter(
    request: AdapterRequest,
    encoders: Mapping[str, Sequence[str]],
    changeable: Callable[[str], Changeable],
    told: str,
) -> Adapter:
    """The LoRA in a file, every update of it set beside the weight that it changes.

    `encoders`: the engines of the text encoders that the member reads, and how names begin of what is for each.
    `changeable` answers what may be changed of the member, by its role, or of an encoder; `told` is what messages call
    the member. What is for other encoders is left out and counted. Raises PairError for what cannot be fused whole:
    DoRA, LoKr, modules that are not there, numbers that are not finite.
    """
    file = request.file.expanduser()
    if not file.is_file():
        raise PairError(f"LoRA {file} is not a file", "give a LoRA as one safetensors file")
    check_is_safetensors(file)
    headers = list(file_headers(file))
    parts = _parts_of(headers, request.role, encoders)
    left_out = len(parts.pop("", ()))
    if not parts:
        parts_told = "the transformer or a text encoder that is there"
        raise PairError(f"{file} is a LoRA without a part for {parts_told}", "give one of this model")
    prefixes = {part: PREFIXES if part == request.role else encoders[part] for part in parts}
    modules = {part: _modules_in(file, ours, prefixes[part]) for part, ours in parts.items()}
    for header in headers:
        for chunk in chunks_of(header):
            check_finite(header, chunk)
    updates = {}
    for part, found in modules.items():
        factor = _factors_of(file, prefixes[part])
        factors = {module: request.scale * factor(module, sides) for module, sides in found.items()}
        whose = told if part == request.role else f"{part} of {told}"
        updates[part] = _updates(file, found, factors, changeable(part), whose)
    return Adapter(file, request.scale, sha256_of(file), updates, left_out)


def _updates(
    file: Path, modules: Mapping[str, Sides], factors: Mapping[str, float], of: Changeable, told: str
) -> dict[str, Update]:
    """By the names of the weights."""
    updates: dict[str, Update] = {}
    targets = _targets_of(of.shapes, of.places)
    for module, found in modules.items():
        if module.replace(".", "_") not in targets:
            raise PairError(f"{file} changes {module}, which {told} does not have", ANOTHER)
        for name, place in targets[module.replace(".", "_")]:
            up = _rows_of(found["up"], place)
            update = Update(found["down"], up, factors[module])
            shape, expected = (up.shape[0], *update.down.shape[1:]), of.shapes[name]  # a convolution's has a window
            if shape != expected:
                raise PairError(f"{file} adds {list(shape)} to {name}, which is {list(expected)} in {told}", ANOTHER)
            if updates.setdefault(name, update) is not update:
                raise PairError(f"{file} is a broken LoRA: it changes {name} twice", AGAIN)
    return updates


def _targets_of(weights: Iterable[str], places: Mapping[str, Place]) -> dict[str, tuple[tuple[str, Place], ...]]:
    """Module, dots as underscores -> the weights of diffusers' that it is, and which of its rows they are.

    In another layout one module may be three weights; kohya's scripts train those modules.
    """
    targets: dict[str, tuple[tuple[str, Place], ...]] = {}
    for name, place in places.items():
        if place.source.endswith(".weight"):
            module = place.source.removesuffix(".weight").replace(".", "_")
            targets[module] = (*targets.get(module, ()), (name, place))
    for name in weights:
        if name.endswith(".weight"):
            targets.setdefault(name.removesuffix(".weight").replace(".", "_"), ((name, Place("")),))
    return targets


def _rows_of(up: TensorHeader, place: Place) -> TensorHeader:
    if up.shape[0] % place.parts:
        said = f"{up.file}: {up.name} is {list(up.shape)}, expected rows for {place.parts} weights"
        raise PairError(said, ANOTHER)
    return place.taken_from(up, up.name)


def added(update: Update, weight: np.ndarray) -> np.ndarray:
    """W + factor * up @ down, in float32."""
    up, down = (numbers_of(header).astype(np.float32) for header in (update.up, update.down))
    product = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
    return weight.astype(np.float32) + np.float32(update.factor) * product.reshape(weight.shape)
