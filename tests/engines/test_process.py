import os
import subprocess
import sys

from hsengines.process import is_other_process, left_behind, workplace


def test_parent_is_another_process_and_we_are_not():
    assert is_other_process(os.getppid())
    assert not is_other_process(os.getpid())


def test_ended_process_is_none():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert not is_other_process(child.pid)


def test_number_beyond_all_process_ids_is_none():
    assert not is_other_process(10**30)


def test_process_of_another_user_is_another_process(monkeypatch):
    def refuse(pid, signal):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert is_other_process(os.getppid())


def ended_pid():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_only_what_ended_processes_made_was_left_behind(tmp_path):
    ended = ended_pid()
    for name in (f"x-{ended}", f"x-{ended}-abc", f"x-{os.getppid()}", "x-mine", f"y-{ended}"):
        (tmp_path / name).mkdir()
    assert {path.name for path in left_behind(tmp_path, "x-")} == {f"x-{ended}", f"x-{ended}-abc"}


def test_a_workplace_is_empty_and_goes_with_what_killed_processes_left(tmp_path):
    left, living = (tmp_path / f".name.partial-{pid}" for pid in (ended_pid(), os.getppid()))
    for folder in (left, living):
        folder.mkdir()
        (folder / "file").touch()
    with workplace(tmp_path, "name") as place:
        assert not left.exists()
        assert living.exists()
        assert list(place.iterdir()) == []
        (place / "file").touch()
    assert not place.exists()
