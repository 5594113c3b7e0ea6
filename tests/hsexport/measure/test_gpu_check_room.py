"""What a check needs of memory and disk."""

import pytest

from hsengines.errors import HSError
from hsexport.measure.gpu_check import room
from hsexport.measure.gpu_check.plan import Target
from random_pairs.shapes import SD35


def test_sd35_has_the_parameters_of_the_real_ones():
    counts = room.parameters(SD35)
    tables = {"large": 192**2 * 38 * 64, "small": 384**2 * 24 * 64}
    assert counts["large"] - tables["large"] == 8_056_627_520
    assert counts["small"] - tables["small"] == 2_243_171_520


def test_too_little_memory_or_disk_is_refused_before_the_work(tmp_path, monkeypatch):
    targets = [Target("tensorrt", "bf16")]
    memory, disk = room.needed(SD35, targets)
    assert 30 * room.GIB < memory < 64 * room.GIB
    assert disk > 50 * room.GIB
    monkeypatch.setattr(room, "available_memory", lambda: memory - 1)
    with pytest.raises(HSError, match=r"needs \d+ GiB of memory, \d+ are free; try --layers"):
        room.refuse_if_too_small(SD35, targets, tmp_path / "out")
    monkeypatch.setattr(room, "available_memory", lambda: memory)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": disk - 1}))
    with pytest.raises(HSError, match=r"of disk"):
        room.refuse_if_too_small(SD35, targets, tmp_path / "out")
