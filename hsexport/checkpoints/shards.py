"""Checkpoints by header: a component's tensors without their numbers, and a digest of the numbers themselves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from hsexport.checkpoints.documents import AGAIN, PairError, read_document
from hsexport.checkpoints.gguf import gguf_headers
from hsexport.checkpoints.gguf_header import is_gguf
from hsexport.checkpoints.quantised import OTHERS, block_bytes, check_numbers, scale_of, with_scales
from hsexport.progress import OnBytes
from hsruntime.adapters.headers import (
    CHUNK_BYTES,
    EXPONENTS,
    Place,
    TensorHeader,
    check_is_safetensors,
    chunks_of,
    file_headers,
    read_bytes,
)

__all__ = [
    "EXPONENTS",
    "VARIANTS",
    "Place",
    "TensorHeader",
    "chunks_of",
    "digest_of",
    "file_headers",
    "file_tensors",
    "find_weights",
    "has_weights",
    "header_bytes",
    "is_mark",
    "mark_of",
    "read_bytes",
    "read_headers",
    "shards_of",
    "weight_map",
]

VARIANTS = ("bf16", "fp16")  # bf16 first: what fp32 weights can hold, it can


def find_weights(component: Path) -> tuple[tuple[Path, ...], Path | None]:
    """The files of a component's weights, and the index that names them if there is one.

    Full weights if it has them, else a variant's, bf16 before fp16, else those in its one GGUF file.
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
    ggufs = sorted(component.glob("*.gguf"))
    if len(ggufs) > 1:
        raise PairError(f"{component} holds {len(ggufs)} GGUF files, expected one of weights", "leave one there")
    if ggufs:
        return (ggufs[0],), None
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


def has_weights(component: Path) -> bool:
    """Whether a component has any: a tokenizer and a scheduler do not."""
    return any(file.suffix in (".safetensors", ".gguf") for file in component.iterdir())


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


def read_headers(component: Path, architectures: Collection[str] | None = None) -> dict[str, TensorHeader]:
    """Every weight of a component by name, read from the headers of its files alone.

    Of a GGUF file that is of one of `architectures` (None: any), the names are the file's own. Raises PairError.
    """
    files, index = find_weights(component)
    headers = {header.name: header for file in files for header in _headers_of(file, architectures)}
    for name, file in weight_map(index).items() if index else ():
        if name not in headers:
            raise PairError(f"{index} places tensor {name} in {file}, which does not hold it", AGAIN)
    return with_scales(headers)


def file_tensors(file: Path, architectures: Collection[str]) -> dict[str, TensorHeader]:
    """Every weight of a single file by its own name: safetensors, or GGUF of one of `architectures`."""
    return with_scales({header.name: header for header in _headers_of(file, architectures)})


def _headers_of(file: Path, architectures: Collection[str] | None) -> Iterable[TensorHeader]:
    if not is_gguf(file):
        check_is_safetensors(file)
        return file_headers(file)
    if architectures is not None and not architectures:
        raise PairError(f"{file} is a GGUF file, expected safetensors", OTHERS)
    return gguf_headers(file, architectures)


def header_bytes(entries: Mapping[str, Any]) -> bytes:
    """What stands before the numbers in a file; padded, for data begins at a multiple of 8."""
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def digest_of(headers: Mapping[str, TensorHeader], on_bytes: OnBytes | None = None) -> str:
    """The sha256 of tensors by name, dtype, shape and data; every byte is read."""
    digest, done, total = hashlib.sha256(), 0, sum(header.size_bytes for header in headers.values())
    for name in sorted(headers):
        header = headers[name]
        # A JSON line has one reading: no name or shape can run into the data behind it.
        digest.update(
            json.dumps([name, header.dtype, header.shape, header.size_bytes, *_scale(header)]).encode() + b"\n"
        )
        for chunk in chunks_of(header, CHUNK_BYTES // block_bytes(header) * block_bytes(header)):
            check_numbers(header, chunk)
            digest.update(chunk)
        done += header.size_bytes
        if on_bytes:
            on_bytes(done, total)
    return digest.hexdigest()


def _scale(header: TensorHeader) -> list[float]:
    """What a tensor's numbers are multiplied by; nothing where they are as they stand."""
    scale = scale_of(header)
    return [] if scale is None else [scale]


MARK_PREFIX = "local:"
LOOKED_AT_BYTES = 4096  # of each tensor: a thousand tensors take 4 MB, all of them 16 GB


def mark_of(tensors: Mapping[str, TensorHeader]) -> str:
    """`local:` and 16 hexadecimal digits, from every tensor's name, type, shape and first bytes.

    Tells one model from another and a model from its fine-tunes; it is no checksum.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        header = tensors[name]
        digest.update(json.dumps([name, header.dtype, header.shape, *_scale(header)]).encode() + b"\n")
        beginning = chain.from_iterable(chunks_of(header, LOOKED_AT_BYTES))
        digest.update(bytes(islice(beginning, LOOKED_AT_BYTES)))
    return MARK_PREFIX + digest.hexdigest()[:16]


def is_mark(source: str) -> bool:
    """Whether a bundle's `source` stands for a local path."""
    return source.startswith(MARK_PREFIX)
