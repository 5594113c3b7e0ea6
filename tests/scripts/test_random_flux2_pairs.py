"""Pairs of FLUX.2's shapes with random weights."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from safetensors.torch import load_file

from hsengines.errors import HSError
from hsexport.checkpoints.shards import read_headers
from hsexport.families.pair import load_pair
from random_pairs.__main__ import shape_of
from random_pairs.flux2.pair import KLEIN, PairShape
from random_pairs.flux2.shapes import KLEIN_4B, KLEIN_9B, MemberShape, Qwen3Shape
from random_pairs.pairs import make_pair, pair_files

ROOT = Path(__file__).parents[2]
NARROW = PairShape(
    "narrow",
    large=MemberShape(layers=2, single_layers=3, heads=2, text=Qwen3Shape(16, inner=24, tied=False), head_size=16),
    small=MemberShape(layers=1, single_layers=2, heads=1, text=Qwen3Shape(8, inner=16, vocabulary=300), head_size=16),
    vae_widths=(4, 8, 8, 8),
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("narrow") / "pair", NARROW, torch.bfloat16, lambda _: None, 200_000)


def parameters_of(shape):
    """Numbers in each part of the pair."""
    parts = pair_files(Path("nowhere"), shape, torch.bfloat16).parts
    return {
        part.folder.relative_to("nowhere").as_posix(): sum(
            torch.Size(extents).numel() for extents in part.shapes.values()
        )
        for part in parts
    }


def test_every_part_has_the_parameters_of_the_real_one():
    assert parameters_of(KLEIN) == {
        "large/transformer": 9_078_581_248,
        "small/transformer": 3_875_544_576,
        "large/text_encoder": 8_190_735_360,
        "small/text_encoder": 4_022_468_096,
        "large/vae": 84_046_372,
    }


def test_cut_and_tiny_text_keep_what_a_transformer_must_fit():
    cut = shape_of("flux2", None, None, tiny_text=True).cut(1)
    assert (cut.large.layers, cut.large.single_layers, cut.large.heads) == (1, 1, 32)
    assert (cut.small.layers, cut.small.single_layers, cut.small.heads) == (1, 1, 24)
    assert [member.text.width for member in (cut.large, cut.small)] == [4096, 2560]
    assert cut.large.text.layers == 28
    assert cut.transformer("large") | {"num_layers": 8, "num_single_layers": 24} == KLEIN.transformer("large")
    assert KLEIN.cut(30).large == KLEIN_9B
    assert KLEIN.cut(None) is KLEIN


def test_each_family_has_its_own_transformers():
    swapped = shape_of("flux2", "klein-base-4b", "klein-base-4b", tiny_text=False)
    assert swapped.large == swapped.small == KLEIN_4B
    assert shape_of("sd3", None, None, tiny_text=False).name == "sd3.5-large-sd3.5-medium"
    with pytest.raises(HSError, match=r"sd3-medium is not of the family flux2; choose of klein-base-9b, klein-base-4b"):
        shape_of("flux2", "sd3-medium", None, tiny_text=True)


def test_the_pair_loads_in_diffusers_and_in_ours(pair):
    large, small = pair
    found = load_pair(str(large), str(small))
    assert (found.large.config.num_layers, found.large.config.num_single_layers) == (2, 3)
    assert {side: encoder.shape.hidden_size for side, encoder in found.parts.encoders.items()} == {
        "text": 16,
        "small_text": 8,
    }
    assert not found.large.config.is_distilled
    assert sorted(folder.name for folder in small.iterdir()) == ["text_encoder", "tokenizer", "transformer"]
    pipeline = Flux2KleinPipeline.from_pretrained(large, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    asked = {"width": 64, "height": 64, "num_inference_steps": 2, "max_sequence_length": 64, "output_type": "np"}
    picture = pipeline(prompt="fox", **asked).images
    assert picture.shape == (1, 64, 64, 3)
    assert picture.std() > 0
    _, info = Flux2Transformer2DModel.from_pretrained(small / "transformer", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert {header.dtype for header in read_headers(small / "transformer").values()} == {"BF16"}


def test_statistics_of_the_vae_are_those_of_a_signal(pair):
    (file,) = (pair[0] / "vae").glob("*.safetensors")
    tensors = {name: tensor for name, tensor in load_file(file).items() if name.startswith("bn.")}
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "bn.running_mean": torch.bfloat16,
        "bn.running_var": torch.bfloat16,
        "bn.num_batches_tracked": torch.int64,
    }
    assert tensors["bn.running_var"].min() > 0.4
    assert tensors["bn.running_mean"].std() > 0


def test_a_table_that_answers_too_is_written_once(pair):
    large, small = (read_headers(folder / "text_encoder") for folder in pair)
    assert "lm_head.weight" in large
    assert "lm_head.weight" not in small
    assert small["model.embed_tokens.weight"].shape == (300, 8)


def test_the_note_tells_every_shape_apart(tmp_path):
    shapes = (NARROW, NARROW.cut(1), replace(NARROW, vae_widths=(8, 8, 8, 8)))
    assert len({pair_files(tmp_path, shape, torch.bfloat16).made_from for shape in shapes}) == 3


@pytest.mark.slow  # 3.5 GB
def test_the_command_writes_a_cut_pair_that_can_be_planned(tmp_path):
    environment = os.environ | {"PYTHON": sys.executable}
    asked = ["--family", "flux2", "--layers", "1", "--text", "tiny", "--out", str(tmp_path / "pair")]
    subprocess.run([str(ROOT / "scripts" / "random_pair"), *asked], env=environment, check=True)
    large, small = (str(tmp_path / "pair" / role) for role in ("large", "small"))
    assert load_pair(large, small).large.config.layers == 2
    command = [sys.executable, "-m", "hsexport.cli.main", "plan", "--large", large, "--small", small]
    planned = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "small_text_encoder" in planned
