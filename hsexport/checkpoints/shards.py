"""Safetensors by header: a component's tensors without their numbers, and a digest of the numbers themselves."""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from hsexport.checkpoints.documents import AGAIN, PairError, read_document, shown
from hsexport.progress import OnBytes

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
ORIGINAL = "quantised checkpoints are not read; give the original in bf16 or fp16"


def check_is_safetensors(file: Path) -> None:
    """Refuses GGUF files and pickles by name, and by what they begin with."""
    with file.open("rb") as stream:
        start = stream.read(4)
    if file.suffix == ".gguf" or start == b"GGUF":
        raise PairError(f"{file} is a GGUF file, expected safetensors", ORIGINAL)
    if file.suffix in PICKLES or start == b"PK\x03\x04":
        raise PairError(
            f"{file} is a pickle, expected safetensors; pickles are not read",
            "give the safetensors file, or convert it where you trust its maker",
        )


DTYPE_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8}
DTYPE_BITS |= {f"{kind}{bits}": bits for kind in "IU" for bits in (8, 16, 32, 64)} | {"BOOL": 8}
HEADER_LIMIT_BYTES = 100_000_000  # the format's own limit
CHUNK_BYTES = 1 << 22
VARIANTS = ("bf16", "fp16")  # bf16 first: what fp32 weights can hold, it can


@dataclass(frozen=True)
class TensorHeader:
    """One tensor: its bytes are those of `pieces`, one after the other, each an offset in the file and a size."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    pieces: tuple[tuple[int, int], ...]

    @property
    def elements(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Of all pieces."""
        return sum(size for _, size in self.pieces)

    @property
    def end(self) -> int:
        """Where the last of its bytes lies in the file, and one more."""
        return max(offset + size for offset, size in self.pieces)


def find_weights(component: Path) -> tuple[tuple[Path, ...], Path | None]:
    """The files of a component's weights, and the index that names them if there is one.

    Full weights if it has them, else a variant's, bf16 before fp16.
    """
    for variant in (None, *VARIANTS):
        mark = f".{variant}" if variant else ""
        for stem in ("diffusion_pytorch_model", "model"):
            single = component / f"{stem}{mark}.safetensors"
            index = component / f"{stem}.safetensors.index{mark}.json"
            if single.is_file():
                return (single,), None
            if index.is_file():
                return shards_of(index), index
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.ckpt") for file in component.glob(pattern))
    if pickles:
        raise PairError(
            f"{component} holds only pickled weights ({pickles[0]}), expected safetensors; pickles are not read",
            "convert: load it with from_pretrained(..., use_safetensors=False), then save_pretrained(DIR)",
        )
    if shards := sorted(component.glob("*-of-*.safetensors")):
        told = f"{component} holds shards ({shards[0].name}) without the index that names their tensors"
        raise PairError(told, "download or save the file *.safetensors.index.json, too")
    raise PairError(f"{component} holds no weights: found no *.safetensors", AGAIN)


def shards_of(index: Path) -> tuple[Path, ...]:
    """The files an index names, each there."""
    names = sorted(set(weight_map(index).values()))
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise PairError(f"shard {name} is missing from {index.parent}, {index.name} names it", AGAIN)
    return tuple(index.parent / name for name in names)


def weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> shard file name, as the index has it."""
    mapping = read_document(index).get("weight_map")
    if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping.values()):
        raise PairError(f"{index} has no weight_map of tensor names to files", AGAIN)
    return mapping


def read_headers(component: Path) -> dict[str, TensorHeader]:
    """Every tensor of a component by name, read from the headers of its files alone."""
    files, index = find_weights(component)
    headers = {header.name: header for file in files for header in file_headers(file)}
    for name, file in weight_map(index).items() if index else ():
        if name not in headers:
            raise PairError(f"{index} places tensor {name} in {file}, which does not hold it", AGAIN)
    for header in headers.values():
        if header.dtype.startswith("F8"):
            told = f"{header.file}: tensor {header.name} is {header.dtype}, expected one of F64, F32, F16, BF16"
            raise PairError(told, ORIGINAL)
    return headers


def file_headers(file: Path) -> Iterable[TensorHeader]:
    """The tensors of one safetensors file, each inside the file's bytes."""
    header, start = read_header(file)
    tensors = [tensor_header(file, start, name, entry) for name, entry in header.items() if name != "__metadata__"]
    expected = max((tensor.end for tensor in tensors), default=start)
    check_size(file, expected)
    check_as_library(file)
    return tensors


def check_as_library(file: Path) -> None:
    """Refuses what the format's own library refuses: overlaps, holes, names twice, bytes behind the last tensor."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np"):
            pass
    except SafetensorError as err:
        raise PairError(f"{file} is not a safetensors file: {err}", AGAIN) from err


def read_header(file: Path) -> tuple[dict[str, Any], int]:
    """The JSON header and the offset at which data starts."""
    with file.open("rb") as stream:
        prefix = stream.read(8)
        if prefix == b"version ":  # "version https://git-lfs.github.com/spec/v1"
            raise PairError(f"{file} is a git-lfs pointer, not weights", f"run git lfs pull in {file.parent}")
        length = int.from_bytes(prefix, "little")
        check_size(file, 8)
        if length > HEADER_LIMIT_BYTES:
            raise PairError(f"{file} is not a safetensors file: its header would be {length} bytes long", AGAIN)
        check_size(file, 8 + length)
        raw = stream.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as err:
        raise PairError(f"{file} is not a safetensors file: its header is not JSON ({err})", AGAIN) from err
    if not isinstance(header, dict):
        raise PairError(f"{file} is not a safetensors file: its header is not an object", AGAIN)
    return header, 8 + length


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, if no name stands in it twice: readers do not agree which of the two counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def header_bytes(entries: Mapping[str, Any]) -> bytes:
    """What stands before the numbers in a file; padded, for data begins at a multiple of 8."""
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def tensor_header(file: Path, start: int, name: str, entry: Any) -> TensorHeader:
    """One entry of a file's header, checked for contradictions."""
    try:
        dtype, shape = str(entry["dtype"]), tuple(operator.index(length) for length in entry["shape"])
        begin, end = map(operator.index, entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as err:
        raise PairError(f"{file}: tensor {name} has a broken header entry: {shown(entry)}", AGAIN) from err
    if any(not 0 <= number < 2**63 for number in (*shape, begin, end)):
        raise PairError(f"{file}: tensor {name} has a broken header entry: {shown(entry)}", AGAIN)
    expected = math.prod(shape) * DTYPE_BITS.get(dtype, 0) // 8
    if begin < 0 or end < begin or (dtype in DTYPE_BITS and end - begin != expected):
        raise PairError(f"{file}: tensor {name} {dtype}{list(shape)} has {end - begin} bytes, not {expected}", AGAIN)
    return TensorHeader(name, dtype, shape, file, ((start + begin, end - begin),))


def check_size(file: Path, expected: int) -> None:
    """Refuses a file shorter than its own header says."""
    found = file.stat().st_size
    if found < expected:
        raise PairError(f"{file} is truncated: expected at least {expected} bytes, found {found}", AGAIN)


def digest_of(headers: Mapping[str, TensorHeader], on_bytes: OnBytes | None = None) -> str:
    """The sha256 of tensors by name, dtype, shape and data; every byte is read."""
    digest, done, total = hashlib.sha256(), 0, sum(header.size_bytes for header in headers.values())
    for name in sorted(headers):
        header = headers[name]
        # A JSON line has one reading: no name or shape can run into the data behind it.
        digest.update(json.dumps([name, header.dtype, header.shape, header.size_bytes]).encode() + b"\n")
        for chunk in chunks_of(header):
            check_finite(header, chunk)
            digest.update(chunk)
        done += header.size_bytes
        if on_bytes:
            on_bytes(done, total)
    return digest.hexdigest()


EXPONENTS = {"F64": 0x7FF << 52, "F32": 0xFF << 23, "BF16": 0xFF << 7, "F16": 0x1F << 10, "F8_E5M2": 0x1F << 2}
"""The bits that are all set in what is infinite or no number."""


def check_finite(header: TensorHeader, data: bytes | np.ndarray) -> None:
    """Refuses a part of a tensor's bytes that holds numbers that are not finite. Raises PairError."""
    mask = EXPONENTS.get(header.dtype)
    if mask is None:
        return
    width = DTYPE_BITS[header.dtype] // 8
    bits = np.frombuffer(data, np.dtype(f"<u{width}"))
    mask = bits.dtype.type(mask)
    count = np.count_nonzero((bits & mask) == mask)
    if count:
        raise PairError(
            f"{header.file}: tensor {header.name} holds {count} numbers that are not finite",
            "the weights are damaged, or were saved from a training run that failed; download or save them again",
        )


def chunks_of(header: TensorHeader, chunk_bytes: int = CHUNK_BYTES) -> Iterable[bytes]:
    """A tensor's bytes, a few megabytes at a time."""
    with header.file.open("rb") as stream:
        for offset, size in header.pieces:
            stream.seek(offset)
            for done in range(0, size, chunk_bytes):
                yield stream.read(min(chunk_bytes, size - done))


def read_bytes(header: TensorHeader) -> np.ndarray:
    """All of a tensor's bytes. Read, not mapped: pages of a mapped file count as this process's until they go."""
    pieces = [np.fromfile(header.file, np.uint8, size, offset=offset) for offset, size in header.pieces]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


@dataclass(frozen=True)
class Place:
    """Of `source`'s rows, cut into `parts` equal ranges, those in `order`, one after the other."""

    source: str
    parts: int = 1
    order: tuple[int, ...] = (0,)

    def taken_from(self, header: TensorHeader, name: str) -> TensorHeader:
        """The tensor that lies here, under its own name; its source's rows can be cut evenly."""
        ((offset, size_bytes),) = header.pieces
        rows = header.shape[0] if header.shape else 1
        part_bytes = rows // self.parts * (size_bytes // max(rows, 1))
        return replace(
            header,
            name=name,
            shape=(len(self.order) * (rows // self.parts), *header.shape[1:]) if header.shape else (),
            pieces=tuple((offset + number * part_bytes, part_bytes) for number in self.order),
        )


MARK_PREFIX = "local:"
LOOKED_AT_BYTES = 4096  # of each tensor: a thousand tensors take 4 MB, all of them 16 GB


def mark_of(tensors: Mapping[str, TensorHeader]) -> str:
    """`local:` and 16 hexadecimal digits, from every tensor's name, type, shape and first bytes.

    Tells one model from another and a model from its fine-tunes; it is no checksum.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        header = tensors[name]
        digest.update(json.dumps([name, header.dtype, header.shape]).encode() + b"\n")
        beginning = chain.from_iterable(chunks_of(header, LOOKED_AT_BYTES))
        digest.update(bytes(islice(beginning, LOOKED_AT_BYTES)))
    return MARK_PREFIX + digest.hexdigest()[:16]


def is_mark(source: str) -> bool:
    """Whether a bundle's `source` stands for a local path."""
    return source.startswith(MARK_PREFIX)
