"""What a check needs of memory and disk."""

import math
from pathlib import Path

import pytest
import torch

from hsengines.errors import HSError
from hsexport.measure.gpu_check import check as room
from hsexport.measure.gpu_check.results import Target
from random_pairs.pairs import pair_files
from random_pairs.sd3.pair import SD35


def test_sd35_has_the_parameters_of_the_real_ones():
    for part in pair_files(Path("nowhere"), SD35, torch.bfloat16).parts[:2]:
        count = sum(math.prod(extents) for name, extents in part.shapes.items() if name != "pos_embed.pos_embed")
        assert room.SD35[part.folder.parent.name] == (count, part.module.config.num_layers)


def test_too_little_memory_or_disk_is_refused_before_the_work(tmp_path, monkeypatch):
    targets = [Target("tensorrt", "bf16")]
    memory, disk = room.needed(None, targets)
    assert 30 * room.GIB < memory < 64 * room.GIB
    assert disk > 50 * room.GIB
    monkeypatch.setattr(room, "available_memory", lambda: memory - 1)
    with pytest.raises(HSError, match=r"needs \d+ GiB of memory, \d+ are free; try --layers"):
        room.refuse_if_too_small(None, targets, tmp_path / "out")
    monkeypatch.setattr(room, "available_memory", lambda: memory)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": disk - 1}))
    with pytest.raises(HSError, match=r"of disk"):
        room.refuse_if_too_small(None, targets, tmp_path / "out")
