"""Pairs of SD3's shapes with random weights."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file
from transformers import T5EncoderModel

from hsexport.checkpoints.shards import read_headers
from hsexport.families.pair import load_pair
from random_pairs import weights
from random_pairs.noise import BLOCK
from random_pairs.pairs import make_pair, pair_files, write_pair
from random_pairs.sd3.pair import SD35, PairShape
from random_pairs.sd3.shapes import (
    REAL_TEXT,
    SD3_MEDIUM,
    SD35_LARGE,
    SD35_MEDIUM,
    ClipShape,
    T5Shape,
    TextShape,
    TransformerShape,
)

ROOT = Path(__file__).parents[2]
NARROW = PairShape(
    "narrow",
    large=TransformerShape(layers=2, heads=2, position_table=12),
    small=TransformerShape(layers=2, heads=1, position_table=16, dual_attention_layers=(0,)),
    text=TextShape(
        (ClipShape(8, 8, inner=32, layers=1), ClipShape(24, 24, inner=96, layers=3, activation="gelu")),
        T5Shape(64, inner=160, layers=4, vocabulary=300),
    ),
    sample_size=8,
    vae_widths=(4, 8, 8, 8),
)
LIMIT = 200_000


def silent(_):
    pass


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("narrow")
    return make_pair(root / "pair", NARROW, torch.bfloat16, silent, LIMIT)


def parameters_of(shape):
    """Numbers in each part of the pair, position tables not counted."""
    parts = pair_files(Path("nowhere"), shape, torch.bfloat16).parts
    counted = {}
    for part in parts:
        place = part.folder.relative_to("nowhere").as_posix()
        sizes = {name: math.prod(extents) for name, extents in part.shapes.items()}
        counted[place] = sum(sizes.values()) - sizes.get("pos_embed.pos_embed", 0)
    return counted


def test_every_part_has_the_parameters_of_the_real_one():
    assert parameters_of(PairShape("real", SD35_LARGE, SD35_MEDIUM, REAL_TEXT)) == {
        "large/transformer": 8_056_627_520,
        "small/transformer": 2_243_171_520,
        "large/text_encoder": 123_650_304,
        "large/text_encoder_2": 694_659_840,
        "large/text_encoder_3": 4_762_310_656,
        "large/vae": 83_819_683,
    }


def test_sd3_medium_has_neither_dual_attention_nor_norms_of_queries():
    (part,) = (
        part
        for part in pair_files(Path("nowhere"), PairShape("3", SD35_LARGE, SD3_MEDIUM), torch.bfloat16).parts
        if part.folder.parent.name == "small"
    )
    assert not [name for name in part.shapes if "norm_q" in name or "attn2" in name]
    assert sum(math.prod(shape) for shape in part.shapes.values()) - 192**2 * 1536 == 2_028_328_000


def test_cut_keeps_widths_and_the_dual_layers_that_are_left():
    cut = SD35.cut(1)
    assert (cut.large.layers, cut.small.layers, cut.small.dual_attention_layers) == (1, 1, (0,))
    assert cut.transformer("large") | {"num_layers": 38} == SD35.transformer("large")
    assert SD35.cut(30).small == SD35.small
    assert SD35.cut(None) is SD35


def test_the_pair_loads_in_diffusers_and_in_ours(pair):
    large, small = pair
    found = load_pair(str(large), str(small))
    assert found.small.config.dual_attention_layers == (0,)
    pipeline = StableDiffusion3Pipeline.from_pretrained(large, torch_dtype=torch.float32)
    assert pipeline.text_encoder_2.config.hidden_act == "gelu"
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("fox", width=64, height=64, num_inference_steps=2, output_type="np").images
    assert picture.shape == (1, 64, 64, 3)
    assert picture.std() > 0
    model, info = SD3Transformer2DModel.from_pretrained(
        small / "transformer", torch_dtype=torch.bfloat16, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert {header.dtype for header in read_headers(small / "transformer").values()} == {"BF16"}


def test_text_encoders_are_cut_into_shards_that_transformers_reads(pair):
    folder = pair[0] / "text_encoder_3"
    assert len(list(folder.glob("model-0000?-of-0000?.safetensors"))) > 1
    model, info = T5EncoderModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    assert model.shared.weight.shape == (300, 64)
    assert [file.name for file in (pair[0] / "text_encoder").glob("*.safetensors")] == ["model.safetensors"]


def test_a_tensor_larger_than_the_block_of_noise_repeats_it_and_no_row(tmp_path):
    shapes = {"linear.weight": (BLOCK // 1000 + 100, 1024), "norm.weight": (7,)}
    weights.write_shards(weights.shards_of(tmp_path, "model", shapes, torch.float32), shapes, torch.float32, silent)
    tensors = load_file(tmp_path / "model.safetensors")
    matrix = tensors["linear.weight"]
    assert matrix.numel() > BLOCK
    assert matrix.std() * 1024**0.5 == pytest.approx(1, abs=1e-2)
    assert len(torch.unique(matrix, dim=0)) == len(matrix)
    assert torch.equal(matrix.flatten()[BLOCK:], matrix.flatten()[: matrix.numel() - BLOCK])
    assert tensors["norm.weight"].mean() == pytest.approx(1, abs=0.3)


def test_shards_stay_below_their_limit():
    (part, *_) = pair_files(Path("nowhere"), NARROW, torch.bfloat16, LIMIT).parts
    largest = max(math.prod(shape) * 2 for shape in part.shapes.values())
    assert len(part.shards) > 3
    assert max(shard.size_bytes for shard in part.shards) <= max(LIMIT, largest)
    assert sum(shard.size_bytes for shard in part.shards) == sum(2 * math.prod(s) for s in part.shapes.values())


def test_a_killed_run_goes_on_at_its_shard_with_the_same_bytes(pair):
    folder = pair[0] / "transformer"
    shards = sorted(folder.glob("*.safetensors"))
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in shards}
    shards[1].unlink()
    make_pair(pair[0].parent, NARROW, torch.bfloat16, silent, LIMIT)
    assert all(file.read_bytes() == before[file][0] for file in shards)
    assert [file for file in shards if file.stat().st_mtime_ns != before[file][1]] == [shards[1]]


def test_a_pair_is_not_whole_before_its_last_shard(tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def stop(shard):
        if shard.file.parent.name == "vae":
            raise Killed

    files = pair_files(tmp_path / "pair", NARROW, torch.bfloat16)
    with pytest.raises(Killed):
        write_pair(files, stop)
    assert not (tmp_path / "pair/large/model_index.json").exists()
    assert (write_pair(files, silent)[0] / "model_index.json").exists()


def test_another_shape_in_the_same_place_starts_over(tmp_path):
    make_pair(tmp_path / "pair", NARROW, torch.bfloat16, silent, LIMIT)
    large, _ = make_pair(tmp_path / "pair", NARROW.cut(1), torch.bfloat16, silent)
    (file,) = (large / "transformer").glob("*.safetensors")
    assert file.name == "diffusion_pytorch_model.safetensors"
    assert not [name for name in load_file(file) if name.startswith("transformer_blocks.1.")]
    assert not list((large / "transformer").glob("*.index.json"))


def test_the_note_tells_every_shape_apart(tmp_path):
    files = [pair_files(tmp_path, shape, torch.bfloat16) for shape in (NARROW, replace(NARROW, sample_size=16))]
    assert len({file.made_from for file in files}) == 2
    assert json.loads(files[0].made_from)["dtype"] == "torch.bfloat16"


@pytest.mark.slow
def test_the_command_leaves_a_foreign_folder_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    done = subprocess.run(
        [str(ROOT / "scripts" / "random_pair"), "--out", str(tmp_path)],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"random_pair: {tmp_path} holds something else")
    assert (tmp_path / "notes.txt").read_text() == "mine"
