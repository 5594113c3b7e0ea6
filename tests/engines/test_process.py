import os
import subprocess
import sys

from hsengines.process import is_other_process


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
