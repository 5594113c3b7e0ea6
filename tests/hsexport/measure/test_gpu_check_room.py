"""What a check needs of memory and disk."""

import math
from pathlib import Path

import pytest
import torch

from hsengines.errors import HSError
from hsexport.measure.gpu_check import check as room
from hsexport.measure.gpu_check.results import Target
from random_pairs.flux2 import klein_files
from random_pairs.pairs import pair_files
from random_pairs.shapes import KLEIN, SD35


def test_sd35_has_the_parameters_of_the_real_ones():
    for part in pair_files(Path("nowhere"), SD35, torch.bfloat16).parts[:2]:
        count = sum(math.prod(extents) for name, extents in part.shapes.items() if name != "pos_embed.pos_embed")
        assert getattr(room.SCALES["sd35"], part.folder.parent.name) == (count, part.module.config.num_layers)


def test_klein_has_the_parameters_of_the_real_ones():
    files = klein_files(Path("nowhere"), KLEIN["klein-9b"], KLEIN["klein-4b"], torch.bfloat16)
    for part in files.parts[:2]:
        scale = getattr(room.SCALES["klein"], part.folder.parent.name)
        layers = part.module.config.num_layers + part.module.config.num_single_layers
        assert scale == (sum(map(math.prod, part.shapes.values())), layers)


def test_a_pair_of_a_scale_is_asked_for_in_its_familys_words(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(room, "random_pair", lambda *options: asked.append(options) or options[0])
    for scale in room.SCALES:
        large, small = room.pair_for(scale, 1, [Target("ort-cpu", "fp32")], tmp_path)
        assert (large, small) == (f"{tmp_path}/pairs/{scale}-1/large", f"{tmp_path}/pairs/{scale}-1/small")
    assert asked[0][1:] == ("--text", "tiny", "--layers", "1")
    assert asked[1][1:] == ("--family", "flux2", "--text", "tiny", "--layers", "1")


def test_too_little_memory_or_disk_is_refused_before_the_work(tmp_path, monkeypatch):
    targets = [Target("tensorrt", "bf16")]
    memory, disk = room.needed(room.SCALES["sd35"], None, targets)
    assert 30 * room.GIB < memory < 64 * room.GIB
    assert disk > 50 * room.GIB
    monkeypatch.setattr(room, "available_memory", lambda: memory - 1)
    with pytest.raises(HSError, match=r"needs \d+ GiB of memory, \d+ are free; try --layers"):
        room.refuse_if_too_small(room.SCALES["sd35"], None, targets, tmp_path / "out")
    monkeypatch.setattr(room, "available_memory", lambda: memory)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": disk - 1}))
    with pytest.raises(HSError, match=r"of disk"):
        room.refuse_if_too_small(room.SCALES["sd35"], None, targets, tmp_path / "out")
