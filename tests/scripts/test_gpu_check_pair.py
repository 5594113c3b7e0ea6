"""Pairs of SD3.5's shapes with random weights, and what they need."""

import json

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

from gpu_checks import random_weights, room
from gpu_checks.pairs import make_pair, new_vae
from gpu_checks.plan import Target
from gpu_checks.random_weights import tensors_of, write_random
from gpu_checks.shapes import SD35, PairShape, TransformerShape
from hsengines.errors import HSError
from hsexport.pair import load_pair
from hsexport.pair.shards import read_headers

NARROW = PairShape(
    "narrow",
    large=TransformerShape(layers=2, heads=2, position_table=12),
    small=TransformerShape(layers=2, heads=1, position_table=16, dual_attention_layers=(0,)),
    sample_size=8,
    text_width=64,
    clip_widths=(8, 24),
    text_layers=1,
    vae_widths=(4, 8, 8, 8),
)
LIMIT = 200_000


def silent(*_):
    pass


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("narrow")
    return make_pair(root / "pair", NARROW, torch.bfloat16, silent, LIMIT)


def test_sd35_has_the_parameters_of_the_real_ones():
    counts = room.parameters(SD35)
    tables = {"large": 192**2 * 38 * 64, "small": 384**2 * 24 * 64}
    assert counts["large"] - tables["large"] == 8_056_627_520
    assert counts["small"] - tables["small"] == 2_243_171_520
    with torch.device("meta"):
        vae = sum(p.numel() for p in new_vae(SD35).parameters())
    assert vae == 83_819_683


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


def test_shards_stay_below_their_limit_and_only_one_is_in_memory(tmp_path, monkeypatch):
    held = []
    save = random_weights.save_file

    def watched(tensors, path):
        held.append(sum(tensor.nbytes for tensor in tensors.values()))
        save(tensors, path)

    monkeypatch.setattr(random_weights, "save_file", watched)
    shapes = tensors_of(lambda: SD3Transformer2DModel(**NARROW.transformer("large")))
    write_random(tmp_path, shapes, torch.bfloat16, silent, LIMIT)
    largest = max(torch.Size(shape).numel() * 2 for shape in shapes.values())
    assert len(held) > 3
    assert max(held) <= max(LIMIT, largest)
    assert sum(held) == sum(torch.Size(shape).numel() * 2 for shape in shapes.values())


def test_a_killed_run_goes_on_at_its_shard_with_the_same_bytes(pair):
    folder = pair[0] / "transformer"
    shards = sorted(folder.glob("*.safetensors"))
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in shards}
    shards[1].unlink()
    make_pair(pair[0].parent, NARROW, torch.bfloat16, silent, LIMIT)
    assert all(file.read_bytes() == before[file][0] for file in shards)
    assert [file for file in shards if file.stat().st_mtime_ns != before[file][1]] == [shards[1]]


def test_another_shape_in_the_same_place_starts_over(tmp_path):
    make_pair(tmp_path / "pair", NARROW, torch.bfloat16, silent)
    large, _ = make_pair(tmp_path / "pair", NARROW.cut(1), torch.bfloat16, silent)
    index = json.loads((large / "transformer" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert not [name for name in index["weight_map"] if name.startswith("transformer_blocks.1.")]
    assert len(list((large / "transformer").glob("*.safetensors"))) == 1


def test_too_little_memory_or_disk_is_refused_before_the_work(tmp_path, monkeypatch):
    targets = [Target("tensorrt", "bf16")]
    memory, disk = room.needed(SD35, targets)
    assert 60 * room.GIB < memory < 128 * room.GIB
    assert disk > 80 * room.GIB
    monkeypatch.setattr(room, "available_memory", lambda: memory - 1)
    with pytest.raises(HSError, match=r"needs \d+ GiB of memory, \d+ are free; try --layers"):
        room.refuse_if_too_small(SD35, targets, tmp_path / "out")
    monkeypatch.setattr(room, "available_memory", lambda: memory)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": disk - 1}))
    with pytest.raises(HSError, match=r"of disk"):
        room.refuse_if_too_small(SD35, targets, tmp_path / "out")
