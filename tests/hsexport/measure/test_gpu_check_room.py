"""What a check needs of memory and disk, by its scale, and what it makes its pair with."""

import math
from pathlib import Path

import pytest
import torch

from hsengines.errors import HSError
from hsexport.measure.gpu_check import check as room
from hsexport.measure.gpu_check.results import Target
from hsexport.measure.gpu_check.scales import SCALES
from random_pairs.flux2.pair import KLEIN
from random_pairs.pairs import pair_files
from random_pairs.sd3.pair import SD35

SHAPES = {"sd35": SD35, "klein": KLEIN}


def numbers_of(shape):
    """Numbers in each transformer, position tables aside."""
    parts = pair_files(Path("nowhere"), shape, torch.bfloat16).parts
    return [
        sum(math.prod(extents) for name, extents in part.shapes.items() if name != "pos_embed.pos_embed")
        for part in parts
        if part.folder.name == "transformer"
    ]


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_has_the_parameters_of_the_real_ones(scale):
    assert list(SCALES[scale].members) == ["large", "small"]
    assert SCALES[scale].numbers(None) == SCALES[scale].numbers(1000) == numbers_of(SHAPES[scale])


@pytest.mark.parametrize("layers", [1, 6, 22])
def test_a_cut_pair_has_what_is_in_no_layer_and_its_layers_of_both_kinds(layers):
    assert SCALES["klein"].numbers(layers) == numbers_of(KLEIN.cut(layers))


@pytest.mark.parametrize(("scale", "most", "disk_gib"), [("sd35", 64, 50), ("klein", 72, 70)])
def test_too_little_memory_or_disk_is_refused_before_the_work(tmp_path, monkeypatch, scale, most, disk_gib):
    targets, asked = [Target("tensorrt", "bf16")], SCALES[scale]
    memory, disk = room.needed(asked, None, targets)
    assert 30 * room.GIB < memory < most * room.GIB
    assert disk > disk_gib * room.GIB
    monkeypatch.setattr(room, "available_memory", lambda: memory - 1)
    with pytest.raises(HSError, match=r"needs \d+ GiB of memory, \d+ are free; try --layers"):
        room.refuse_if_too_small(asked, None, targets, tmp_path / "out")
    monkeypatch.setattr(room, "available_memory", lambda: memory)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": disk - 1}))
    with pytest.raises(HSError, match=r"of disk"):
        room.refuse_if_too_small(asked, None, targets, tmp_path / "out")


@pytest.mark.parametrize("scale", SCALES)
def test_a_pair_is_made_of_its_family_and_as_many_layers(tmp_path, monkeypatch, scale):
    made = []
    monkeypatch.setattr(room, "refuse_if_too_small", lambda *_: None)
    monkeypatch.setattr(room, "random_pair", lambda out, *options: made.append((out, options)) or out)
    family = {"sd35": "sd3", "klein": "flux2"}[scale]
    pairs = tmp_path / "pairs"
    for layers, name, cut in [(None, scale, ()), (2, f"{scale}-2", ("--layers", "2"))]:
        large, small = room.pair_for(scale, layers, [], tmp_path)
        assert (large, small) == (str(pairs / name / "large"), str(pairs / name / "small"))
        assert made.pop() == (pairs / name, ("--family", family, "--text", "tiny", *cut))


def test_the_demo_pair_is_there_already(tmp_path):
    assert room.pair_for("demo", None, [], tmp_path) == ("demo", "demo")
