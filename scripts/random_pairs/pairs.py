"""A pair of real shapes and random weights, in diffusers' directories."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from random_pairs.family import PairShape
from random_pairs.weights import SHARD_BYTES, OnShard, Shapes, Shard, shapes_of, shards_of, write_shards

MADE_FROM = "shape.json"
STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}


@dataclass(frozen=True)
class Part:
    """A network of the pair before it is written; `module` is on the meta device and holds no numbers."""

    folder: Path
    module: Any
    dtype: torch.dtype
    shapes: Shapes
    shards: list[Shard]

    @property
    def library(self) -> str:
        """The package that reads it: diffusers or transformers."""
        return _library(self.module)


@dataclass(frozen=True)
class PairFiles:
    """Everything that is to be written, before any of it is: its size is known."""

    root: Path
    parts: tuple[Part, ...]
    others: Mapping[str, Any]
    index: Mapping[str, Any]
    made_from: str

    @property
    def size_bytes(self) -> int:
        """Of all weights."""
        return sum(shard.size_bytes for part in self.parts for shard in part.shards)


def make_pair(
    root: Path, shape: PairShape, dtype: torch.dtype, on_shard: OnShard, limit: int = SHARD_BYTES
) -> tuple[Path, Path]:
    """Folders of large, a whole pipeline, and of small; `root` is filled or, if whole, kept."""
    return write_pair(pair_files(root, shape, dtype, limit), on_shard)


def pair_files(root: Path, shape: PairShape, dtype: torch.dtype, limit: int = SHARD_BYTES) -> PairFiles:
    """What `write_pair` is going to write."""
    contents = shape.contents()
    parts = tuple(_part(root / place, build, dtype, limit) for place, build in contents.networks.items())
    made_from = json.dumps({"shape": asdict(shape), "dtype": str(dtype), "shard": limit})
    return PairFiles(root, parts, contents.others, contents.index, made_from)


def write_pair(files: PairFiles, on_shard: OnShard) -> tuple[Path, Path]:
    """Writes what is missing; a run that was killed goes on at the shard it was at.

    model_index.json comes last: where it lies, everything does.
    """
    _start_over_if_changed(files.root, files.made_from)
    for part in files.parts:
        part.folder.mkdir(parents=True, exist_ok=True)
        _write_config(part)
        write_shards(part.shards, part.shapes, part.dtype, on_shard)
    large = files.root / "large"
    for place, other in files.others.items():
        other.save_pretrained(files.root / place)
    named = {files.root / place: other for place, other in files.others.items()}
    named |= {part.folder: part.module for part in files.parts}
    index = {
        **files.index,
        **{
            folder.name: [_library(part), type(part).__name__]
            for folder, part in named.items()
            if folder.parent == large
        },
    }
    (large / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return large, files.root / "small"


def _part(folder: Path, build: Callable[[], Any], dtype: torch.dtype, limit: int) -> Part:
    with torch.device("meta"):
        module = build()
    shapes = shapes_of(module)
    return Part(folder, module, dtype, shapes, shards_of(folder, STEMS[_library(module)], shapes, dtype, limit))


def _write_config(part: Part) -> None:
    if part.library == "diffusers":
        part.module.save_config(part.folder)
        return
    config = part.module.config
    config.architectures, config.dtype = [type(part.module).__name__], part.dtype
    config.save_pretrained(part.folder)


def _start_over_if_changed(root: Path, made_from: str) -> None:
    """Leaves `root` with the note of what is being made in it, and nothing of anything else."""
    note = root / MADE_FROM
    if root.is_dir() and not (note.is_file() and note.read_text(encoding="utf-8") == made_from):
        shutil.rmtree(root)
    root.mkdir(parents=True, exist_ok=True)
    note.write_text(made_from, encoding="utf-8")


def _library(part: Any) -> str:
    return type(part).__module__.partition(".")[0]
