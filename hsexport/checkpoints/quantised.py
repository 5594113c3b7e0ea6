"""Quantised tensors of a checkpoint: fp8, alone or with a scale beside it, and ggml's blocks."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

import ml_dtypes
import numpy as np

from hsexport.checkpoints.documents import AGAIN, PairError, shown
from hsexport.checkpoints.gguf import BLOCKS, check_blocks, dequantised, int8_blocks
from hsruntime.adapters.headers import DTYPES, TensorHeader, check_finite, read_bytes
from hsruntime.adapters.headers import numbers_of as plain_numbers

FP8 = {"F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2)}
READABLE = frozenset({*DTYPES, *FP8, *BLOCKS})
"""The types that weights may have in a checkpoint."""
SCALES = (".scale_weight", ".weight_scale")
"""What follows a layer's name in that of its weight's scale, in older files and in newer ones."""
UNUSED = (".scale_input", ".input_scale")
"""Scales of what the layer is given, for hardware that multiplies in fp8."""
FOREIGN = (".weight_scale_2", ".pre_quant_scale")
"""What else some formats have beside a weight."""
MARKER, FORMAT = "scaled_fp8", ".comfy_quant"
"""A tensor that says that fp8 weights have scales, and one that says in which format a layer is, as JSON."""
FORMATS = ("float8_e4m3fn", "float8_e5m2")
MOST_FORMAT_BYTES = 4096
OTHERS = "give the original in bf16 or fp16, or one in fp8 or GGUF"


@dataclass(frozen=True)
class Quantised:
    """A matrix (N, K) that the checkpoint holds in 8 bits.

    `read` reads it anew each time: values (N, K), of ml_dtypes' float8_e4m3fn ("fp8") or int8, and float32 scales that
    they are to be multiplied by: of shape () for the whole matrix, or (N, K/32) for each 32 numbers of a row.
    """

    kind: Literal["fp8", "int8"]
    read: Callable[[], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class ScaledHeader(TensorHeader):
    """A tensor whose numbers are what its bytes say, times the one number in `scale`."""

    scale: TensorHeader


def with_scales(headers: Mapping[str, TensorHeader]) -> dict[str, TensorHeader]:
    """The weights among a checkpoint's tensors, each with the scale that lies beside it.

    Raises PairError for a scale or a weight without the other, and for weights in a type that is not read.
    """
    beside = {name: header for name, header in headers.items() if _lies_beside(name)}
    weights = {name: header for name, header in headers.items() if name not in beside}
    for name, header in weights.items():
        if name.endswith(FOREIGN):
            raise PairError(f"{header.file} holds {name}, of a kind of quantised weights that is not read", OTHERS)
        if name.endswith(".weight") and header.dtype not in READABLE:
            raise PairError(f"{header.file}: tensor {name} is {header.dtype}, expected a float type", OTHERS)
    scaled: dict[str, TensorHeader] = {}
    for name, header in beside.items():
        if name.endswith(FORMAT):
            _check_format(header)
        if name.endswith(SCALES):
            weight = f"{name.rpartition('.')[0]}.weight"
            _check_scale(header, weight, weights, scaled)
            own = {field.name: getattr(weights[weight], field.name) for field in fields(TensorHeader)}
            scaled[weight] = ScaledHeader(**own, scale=header)
    _check_none_lacks_its_scale(weights, beside, scaled)
    return weights | scaled


def _lies_beside(name: str) -> bool:
    return name.endswith((*SCALES, *UNUSED, FORMAT)) or _is_marker(name)


def _is_marker(name: str) -> bool:
    return name.rpartition(".")[2] == MARKER


def _check_format(header: TensorHeader) -> None:
    """Refuses a layer in a format that is more than fp8 and a scale."""
    raw = read_bytes(header).tobytes() if header.size_bytes <= MOST_FORMAT_BYTES else b""
    if raw and not any(raw):  # a hole, where a plan has the headers alone
        return
    try:
        said = json.loads(raw)["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise PairError(f"{header.file}: tensor {header.name} does not name a format", AGAIN) from err
    if said not in FORMATS:
        told = f"{header.file}: {header.name} says format {shown(said)}, expected {' or '.join(FORMATS)}"
        raise PairError(told, OTHERS)


def _check_scale(
    scale: TensorHeader, weight: str, weights: Mapping[str, TensorHeader], scaled: Mapping[str, TensorHeader]
) -> None:
    """Refuses a scale without its weight, of another weight than fp8, of more than one number, and a second one."""
    where = f"{scale.file}: tensor {scale.name}"
    if weight not in weights:
        raise PairError(f"{where} is a scale without its weight {weight}", AGAIN)
    if weights[weight].dtype not in FP8:
        raise PairError(f"{where} is a scale for {weight}, which is {weights[weight].dtype}, expected fp8", AGAIN)
    if weight in scaled:
        raise PairError(f"{where} is a second scale for {weight}", AGAIN)
    if scale.dtype not in DTYPES or scale.elements != 1:
        raise PairError(f"{where} is {scale.dtype}{list(scale.shape)}, expected one number for all of {weight}", OTHERS)


def _check_none_lacks_its_scale(
    weights: Mapping[str, TensorHeader], beside: Mapping[str, TensorHeader], scaled: Mapping[str, TensorHeader]
) -> None:
    marked = tuple(name.removesuffix(MARKER) for name in beside if _is_marker(name))
    for name, header in weights.items():
        layer = name.removesuffix(".weight")
        expected = name.startswith(marked) or layer + FORMAT in beside
        if expected and header.dtype in FP8 and layer != name and len(header.shape) > 1 and name not in scaled:
            told = f"{header.file}: tensor {name} is scaled fp8, and its scale {layer}{SCALES[0]} is missing"
            raise PairError(told, AGAIN)


def scale_of(header: TensorHeader) -> float | None:
    """What a tensor's numbers are multiplied by, read now; None for 1. Raises PairError for what is no scale."""
    if not isinstance(header, ScaledHeader):
        return None
    with np.errstate(over="ignore"):
        value = float(plain_numbers(header.scale).astype(np.float32).reshape(()))
    if not (math.isfinite(value) and value > 0):
        told = f"{header.file}: tensor {header.scale.name} is {value}, expected a scale above zero"
        raise PairError(told, AGAIN)
    return value


def is_quantised(header: TensorHeader) -> bool:
    """Whether a tensor is in fewer bits than any engine computes with."""
    return header.dtype in FP8 or header.dtype in BLOCKS


def block_bytes(header: TensorHeader) -> int:
    """A tensor can be cut between so many of its bytes and the next."""
    return BLOCKS[header.dtype][1] if header.dtype in BLOCKS else 1


def check_numbers(header: TensorHeader, data: bytes | np.ndarray) -> None:
    """Refuses a part of a tensor's bytes, whole blocks, that holds numbers that are not finite. Raises PairError."""
    check = check_blocks if header.dtype in BLOCKS else check_finite
    check(header, data)


def numbers_of(header: TensorHeader) -> np.ndarray:
    """A tensor's numbers, read now: in the type of the file, or float32 if that is fp8 or of blocks.

    Raises PairError for a type that no network has.
    """
    if header.dtype in BLOCKS:
        return dequantised(header)
    if header.dtype not in FP8:
        return plain_numbers(header)
    numbers = _fp8_of(header).astype(np.float32)
    scale = scale_of(header)
    return numbers if scale is None else numbers * np.float32(scale)


def quantised(header: TensorHeader) -> Quantised | None:
    """What the file has of a tensor in 8 bits; None for any that is not a matrix of E4M3 or Q8_0."""
    if len(header.shape) != 2:
        return None
    if header.dtype == "F8_E4M3":
        return Quantised("fp8", partial(_read_fp8, header))
    if header.dtype == "Q8_0" and header.shape[1] % BLOCKS["Q8_0"][0] == 0:
        return Quantised("int8", partial(int8_blocks, header))
    return None


def _read_fp8(header: TensorHeader) -> tuple[np.ndarray, np.ndarray]:
    scale = scale_of(header)
    return _fp8_of(header), np.array(1.0 if scale is None else scale, np.float32)


def _fp8_of(header: TensorHeader) -> np.ndarray:
    return read_bytes(header).view(FP8[header.dtype]).reshape(header.shape)


def quantised_in_words(headers: Iterable[TensorHeader]) -> str:
    """`120 tensors F8_E4M3, 4 Q8_0`: how many are in which type; empty if none is quantised."""
    counts = Counter(header.dtype for header in headers if is_quantised(header)).most_common()
    if not counts:
        return ""
    (kind, count), *others = counts
    first = f"{count} tensor{'s' if count > 1 else ''} {kind}"
    return ", ".join([first, *(f"{count} {kind}" for kind, count in others)])
