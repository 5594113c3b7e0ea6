import errno
import os
import shutil
import signal
import subprocess
import sys

import pytest

from hsengines.errors import HSError
from hsexport.build.store import BuildKey, Store

CHILD = """
import sys, time
from pathlib import Path
from hsexport.build.store import BuildKey
from hsexport.build.store import Store

def fill(folder):
    (folder / "engine").write_text("half")
    print("filling", flush=True)
    {then}
    (folder / "engine").write_text("whole")

entry = Store(Path(sys.argv[1])).make(BuildKey("engine", "large", {{"builder": "onnxruntime 1"}}), fill)
print((entry / "engine").read_text(), flush=True)
"""


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


def key(builder="onnxruntime 1", name="large"):
    return BuildKey("engine", name, {"builder": builder})


def filler(text="whole"):
    """A fill function that counts its calls."""

    def fill(folder):
        fill.calls += 1
        (folder / "sub").mkdir()
        (folder / "sub" / "engine").write_text(text)

    fill.calls = 0
    return fill


def refuse(folder):
    raise AssertionError("the entry is there: nothing was to be filled")


def started_child(store, then):
    """A process that is in the middle of filling the entry of `key()`."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(then=then), str(store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "filling\n"
    return child


def unfinished(store):
    return [path.name for path in (store.root / "engine").glob(".unfinished.*")]


def test_second_make_finds_what_the_first_one_left(store):
    entry = store.make(key(), filler())
    assert (entry / "sub" / "engine").read_text() == "whole"
    assert store.make(key(), refuse) == store.find(key()) == entry
    assert unfinished(store) == []


def test_entry_that_was_never_made_is_missing_as_a_first_build(store):
    assert store.find(key()) is None
    assert store.why_missing(key()) == "first build"


def test_rebuild_says_what_changed(store):
    store.make(key(), filler())
    assert store.find(key("onnxruntime 2")) is None
    assert store.why_missing(key("onnxruntime 2")) == "builder onnxruntime 1 -> onnxruntime 2"


def test_what_changed_is_told_where_long_facts_differ():
    before, now = (f"{'x' * 100}{'y' * 20}{end}" for end in "78")
    told = BuildKey("onnx", "large", {"shape": now}).changes_since({"shape": before})
    assert told == f"shape ...{'y' * 20}7 -> ...{'y' * 20}8"
    digests = "a" * 64, "b" * 64
    assert BuildKey("onnx", "large", {"weights": digests[1]}).changes_since({"weights": digests[0]}) == (
        "weights aaaaaaaa -> bbbbbbbb"
    )


def test_what_changed_is_told_against_the_same_network(store):
    store.make(key(), filler())
    assert store.why_missing(key(name="small")) == "first build"


def test_earlier_entry_stays_beside_a_later_one(store):
    first = store.make(key(), filler())
    store.make(key("onnxruntime 2"), filler())
    assert store.make(key(), refuse) == first


@pytest.mark.parametrize("file", ["sub/engine", "contents.json"])
def test_truncated_entry_is_built_again(store, file):
    entry = store.make(key(), filler())
    (entry / file).write_text("{")
    fill = filler()
    assert store.find(key()) is None
    assert store.why_missing(key()) == "the stored one was gone or broken"
    assert (store.make(key(), fill) / "sub" / "engine").read_text() == "whole"
    assert fill.calls == 1


@pytest.mark.parametrize("record", ["[]", '{"sub/engine": 5}', '{"sub/engine": [5]}'])
def test_entry_with_a_foreign_record_is_built_again(store, record):
    (store.make(key(), filler()) / "contents.json").write_text(record)
    assert store.find(key()) is None


def test_byte_flipped_through_a_bundles_link_is_built_again(store, tmp_path):
    engine = store.make(key(), filler()) / "sub" / "engine"
    link = tmp_path / "in_a_bundle"
    link.hardlink_to(engine)
    with link.open("r+b") as file:
        file.write(b"W")
    assert engine.read_text() == "Whole"
    fill = filler()
    assert (store.make(key(), fill) / "sub" / "engine").read_text() == "whole"
    assert fill.calls == 1
    assert link.read_text() == "Whole"


def test_entry_that_lost_a_file_is_built_again(store):
    (store.make(key(), filler()) / "sub" / "engine").unlink()
    fill = filler()
    store.make(key(), fill)
    assert fill.calls == 1


def test_broken_record_of_the_last_build_is_told(store):
    store.make(key(), filler())
    (store.root / "engine" / "large.last.json").write_text("{")
    assert store.why_missing(key("onnxruntime 2")) == "the record of the last build is unreadable"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_in_fill_leaves_nothing(store, error):
    def fill(folder):
        (folder / "engine").write_text("half")
        raise error("no")

    with pytest.raises(error, match="no"):
        store.make(key(), fill)
    assert store.find(key()) is None
    assert list((store.root / "engine").iterdir()) == []


def test_killed_fill_leaves_nothing_visible_and_is_swept(store):
    child = started_child(store, "time.sleep(60)")
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert store.find(key()) is None
    assert len(unfinished(store)) == 1
    store.make(key(), filler())
    assert unfinished(store) == []


def test_unfinished_work_of_a_living_process_is_not_swept(store):
    child = started_child(store, "sys.stdin.readline()")
    try:
        store.make(key(name="small"), filler())
        assert len(unfinished(store)) == 1
    finally:
        out, _ = child.communicate("go\n")
    assert out == "whole\n"


def test_leftover_under_our_own_process_id_is_swept(store):
    """In a container every builder may have the same id."""
    leftover = store.root / "engine" / f".unfinished.partial-{os.getpid()}"
    leftover.mkdir(parents=True)
    store.make(key(), filler())
    assert not leftover.exists()


def test_folder_that_names_no_process_is_left_alone(store):
    foreign = store.root / "engine" / ".unfinished.partial-notes"
    foreign.mkdir(parents=True)
    store.make(key(), filler())
    assert foreign.exists()


def test_full_disk_is_told_in_one_line(store):
    def fill(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    words = r"'large' could not be written to the cache .*cache: No space left on device \(\d+ MB free\); free some"
    with pytest.raises(HSError, match=words) as told:
        store.make(key(), fill)
    assert "\n" not in str(told.value)
    assert list((store.root / "engine").iterdir()) == []


def test_cache_that_cannot_be_made_is_told_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HSError, match=r"'large' could not be written to the cache .*file/cache: Not a directory"):
        Store(tmp_path / "file" / "cache").make(key(), filler())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    path = tmp_path / "disk"
    path.mkdir()
    if not shutil.which("mount") or os.getuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"this machine mounts no tmpfs: {mount.stderr.strip()}")
    yield path
    subprocess.run(["umount", path], check=True)


def test_disk_that_fills_up_keeps_what_was_done_before(small_disk):
    store = Store(small_disk / "cache")
    store.make(key(name="small"), filler())
    with pytest.raises(HSError, match=r"'large' could not be written .* No space left on device"):
        store.make(key(), lambda folder: (folder / "engine").write_bytes(bytes(2**21)))
    assert unfinished(store) == []
    store.make(key(name="small"), refuse)


def test_two_builds_of_one_thing_make_it_once_and_the_second_says_that_it_waits(store):
    child = started_child(store, "sys.stdin.readline()")
    waits, fill = [], filler()

    def told():
        waits.append("waiting")
        child.stdin.write("go on\n")
        child.stdin.flush()

    entry = store.make(key(), fill, told)
    child.wait(timeout=60)
    assert (waits, fill.calls, (entry / "engine").read_text()) == (["waiting"], 0, "whole")


def test_a_killed_builder_keeps_nobody_waiting(store):
    child = started_child(store, "sys.stdin.readline()")
    child.kill()
    child.wait(timeout=60)
    fill = filler()
    store.make(key(), fill, lambda: pytest.fail("nobody holds the lock"))
    assert fill.calls == 1
