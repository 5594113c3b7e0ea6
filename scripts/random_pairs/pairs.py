"""A pair of real shapes and random weights, in diffusers' directories."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

from random_pairs.shapes import PairShape
from random_pairs.text_side import END, new_clip, new_clip_tokenizer, new_t5, new_t5_tokenizer
from random_pairs.weights import SHARD_BYTES, OnShard, Shapes, Shard, shapes_of, shards_of, write_shards

CLIP_LENGTH, T5_LENGTH = 77, 256  # StableDiffusion3Pipeline's
SHIFT = 3.0
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
    """What has no weights of its own, a scheduler or a tokenizer, by where it lies: "large/tokenizer"."""
    pipelines: Mapping[str, str]
    """Diffusers' class of the members that are whole pipelines, by their folders."""
    made_from: str

    @property
    def size_bytes(self) -> int:
        """Of all weights."""
        return sum(shard.size_bytes for part in self.parts for shard in part.shards)


def make_pair(
    root: Path, shape: PairShape, dtype: torch.dtype, on_shard: OnShard, limit: int = SHARD_BYTES
) -> tuple[Path, Path]:
    """Folders of large, a whole pipeline, and small, a transformer alone; `root` is filled or, if whole, kept."""
    return write_pair(pair_files(root, shape, dtype, limit), on_shard)


def pair_files(root: Path, shape: PairShape, dtype: torch.dtype, limit: int = SHARD_BYTES) -> PairFiles:
    """What `write_pair` is going to write."""
    clips = [new_clip_tokenizer(END, CLIP_LENGTH), new_clip_tokenizer("!", CLIP_LENGTH)]
    t5 = new_t5_tokenizer(T5_LENGTH)
    builds: dict[str, Callable[[], Any]] = {
        "large/transformer": lambda: SD3Transformer2DModel(**shape.transformer("large")),
        "small/transformer": lambda: SD3Transformer2DModel(**shape.transformer("small")),
        "large/text_encoder": lambda: new_clip(shape.text.clips[0], clips[0]),
        "large/text_encoder_2": lambda: new_clip(shape.text.clips[1], clips[1]),
        "large/text_encoder_3": lambda: new_t5(shape.text.t5, t5),
        "large/vae": lambda: new_vae(shape),
    }
    parts = tuple(part_of(root / place, build, dtype, limit) for place, build in builds.items())
    others = {
        "large/scheduler": FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        "large/tokenizer": clips[0],
        "large/tokenizer_2": clips[1],
        "large/tokenizer_3": t5,
    }
    made_from = json.dumps({"shape": asdict(shape), "dtype": str(dtype), "shard": limit})
    return PairFiles(root, parts, others, {"large": "StableDiffusion3Pipeline"}, made_from)


def write_pair(files: PairFiles, on_shard: OnShard) -> tuple[Path, Path]:
    """Writes what is missing; a run that was killed goes on at the shard it was at.

    model_index.json comes last: where it lies, everything does.
    """
    _start_over_if_changed(files.root, files.made_from)
    for part in files.parts:
        part.folder.mkdir(parents=True, exist_ok=True)
        _write_config(part)
        write_shards(part.shards, part.shapes, part.dtype, on_shard)
    for place, other in files.others.items():
        other.save_pretrained(files.root / place)
    placed = {part.folder.relative_to(files.root).as_posix(): part.module for part in files.parts} | dict(files.others)
    for member, pipeline in files.pipelines.items():
        index: dict[str, Any] = {"_class_name": pipeline}
        for place, part in placed.items():
            if place.startswith(f"{member}/"):
                index[place.removeprefix(f"{member}/")] = [_library(part), type(part).__name__]
        (files.root / member / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return files.root / "large", files.root / "small"


def new_vae(shape: PairShape) -> AutoencoderKL:
    """SD3's VAE: 16 channels, each side an eighth."""
    blocks = len(shape.vae_widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=shape.vae_widths,
        layers_per_block=2,
        latent_channels=16,
        norm_num_groups=min(32, min(shape.vae_widths)),
        sample_size=1024,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def part_of(folder: Path, build: Callable[[], Any], dtype: torch.dtype, limit: int) -> Part:
    """A network of a pair, made on the meta device."""
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
