"""Progress as a log shows it, by a clock that the test turns."""

import pytest

from hsexport import report as reports


@pytest.fixture
def log(monkeypatch, capsys):
    """A report in a log, `at(seconds)` to turn its clock, and what it told since it was asked last."""
    now = [0.0]
    monkeypatch.setattr(reports, "perf_counter", lambda: now[0])

    def at(seconds):
        now[0] = float(seconds)

    made = reports.BuildReport("what is done is kept")
    made.stage("export", 1)
    made.begin("large")
    capsys.readouterr()
    return made, at, lambda: capsys.readouterr().err.splitlines()


def test_long_phase_tells_bytes_rate_and_time_left_every_ten_seconds(log):
    report, at, told = log
    for second in range(25):
        at(second)
        report.advance("large", "MB read", 100 * second, 5000)
    assert told() == [
        "export: large: 1,100 of 5,000 MB read, 100 a second, 39 s left",
        "export: large: 2,200 of 5,000 MB read, 100 a second, 28 s left",
    ]


def test_short_phase_leaves_no_line(log):
    report, at, told = log
    for second in range(9):
        at(second)
        report.advance("large", "MB read", second, 9)
    assert told() == []


def test_each_phase_has_a_rate_of_its_own(log):
    report, at, told = log
    report.advance("large", "MB hashed", 0, 100)
    at(11)
    report.advance("large", "MB read", 40, 1000)  # its first word: no rate yet
    at(25)
    report.advance("large", "MB read", 110, 1000)
    assert told() == [
        "export: large: 40 of 1,000 MB read",
        "export: large: 110 of 1,000 MB read, 5.0 a second, 178 s left",
    ]
