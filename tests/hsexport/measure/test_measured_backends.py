"""Bundles for several backends side by side."""

import pytest

from hsengines.errors import HSError
from hsexport.measure.backends import SCHEDULES, backends, block

MACHINE = {"processor": "a CPU", "cores": 2, "threads": 2}


@pytest.mark.slow
def test_each_bundle_draws_every_schedule_quiet_and_beside_a_busy_process(tiny_bundle, tiny_openvino_bundle):
    report = backends((tiny_bundle, tiny_openvino_bundle), rounds=2, straight=False, threads=1)
    rows = report["rows"]
    told = [f"`{path}`: {name}, fp32" for path, name in ((tiny_bundle, "ort-cpu"), (tiny_openvino_bundle, "openvino"))]
    assert [(row["drawn"], row["schedule"]) for row in rows] == [(drawn, s) for drawn in told for s in SCHEDULES]
    assert all(row["loop_ms"] > 0 and row["busy_ms"] > 0 for row in rows)
    first = {"value": 1.0, "low": 1.0, "high": 1.0}
    assert all(row["over_first"] == row["busy_over_first"] == first for row in rows[:3])
    text = block({**report, "hardware": MACHINE})
    assert len(text.splitlines()) == 2 + len(rows) + 2 and "1.00 (1.00 to 1.00)" in text


def test_what_a_bundles_process_raises_is_raised_here(tiny_bundle, monkeypatch):
    monkeypatch.setattr("hsexport.measure.backends.SCHEDULES", ("no such schedule",))
    with pytest.raises(HSError, match="no such schedule"):
        backends((tiny_bundle,), rounds=2, straight=False, threads=1)
