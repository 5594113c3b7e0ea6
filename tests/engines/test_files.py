import os
import subprocess
import sys

import pytest
from small_disk import small_disk

from hsengines.files import bytes_text, is_other_process, left_behind, link_or_copy, replace_file, replaced, workplace


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(b"weights")
    return path


def ended_pid():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_file_is_replaced_and_its_folder_made(tmp_path):
    file = tmp_path / "new" / "file"
    replace_file(file, b"old")
    replace_file(file, "größer")
    assert file.read_text(encoding="utf-8") == "größer"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError("no"), ValueError])
def test_whatever_goes_wrong_while_writing_leaves_the_old_file_and_no_other(source, tmp_path, fault):
    with pytest.raises(type(fault) if isinstance(fault, OSError) else fault), replaced(source) as part:
        part.write_bytes(b"half")
        assert source.read_bytes() == b"weights"
        raise fault
    assert list(tmp_path.iterdir()) == [source]
    assert source.read_bytes() == b"weights"


def test_ctrl_c_before_the_last_step_leaves_the_old_file(source, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_file(source, b"new")
    assert list(tmp_path.iterdir()) == [source]
    assert source.read_bytes() == b"weights"


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    with small_disk(tmp_path / "disk", "64k") as disk:
        replace_file(disk / "file", b"old")
        with pytest.raises(OSError, match="No space left"):
            replace_file(disk / "file", bytes(100_000))
        assert (disk / "file").read_bytes() == b"old"
        assert list(disk.iterdir()) == [disk / "file"]


def test_a_killed_writer_leaves_the_old_file(source):
    code = "import os, sys; from hsengines.files import replaced; from pathlib import Path\n"
    code += "with replaced(Path(sys.argv[1])) as part: part.write_bytes(b'half'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, source], check=False)
    assert source.read_bytes() == b"weights"
    assert len(left_behind(source.parent, ".source.part-")) == 1


def test_target_is_the_source_under_another_name(source, tmp_path):
    assert link_or_copy(source, tmp_path / "target").samefile(source)


def test_target_is_a_copy_where_links_are_refused(source, tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    target = link_or_copy(source, tmp_path / "target")
    assert target.read_bytes() == b"weights"
    assert not target.samefile(source)


def test_symbolic_link_is_followed(source, tmp_path):
    (tmp_path / "symbolic").symlink_to(source)
    target = link_or_copy(tmp_path / "symbolic", tmp_path / "target")
    assert not target.is_symlink()
    assert target.samefile(source)


def test_parent_is_another_process_and_we_are_not():
    assert is_other_process(os.getppid())
    assert not is_other_process(os.getpid())


def test_ended_process_is_none():
    assert not is_other_process(ended_pid())


def test_number_beyond_all_process_ids_is_none():
    assert not is_other_process(10**30)


def test_process_of_another_user_is_another_process(monkeypatch):
    def refuse(pid, signal):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert is_other_process(os.getppid())


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


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (62_457_630, "62.5 MB"),
        (10**9, "1.0 GB"),
        (15_234_000_000, "15.2 GB"),
    ],
)
def test_numbers_of_bytes_are_told_in_the_unit_that_fits(count, words):
    assert bytes_text(count) == words
