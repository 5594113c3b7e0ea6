"""Writing bundles: whole or not at all, whatever interrupts it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec
import pytest
from small_disk import small_disk
from test_bundle import GOLDEN, golden_contents, golden_manifest, tree_of

from hsengines.errors import HSError
from hsengines.files import bytes_text
from hsruntime.bundle.manifest import BundleError
from hsruntime.bundle.reader import open_bundle
from hsruntime.bundle.writer import write_bundle, write_defaults
from hsruntime.facts import Defaults

needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs signals and process ids as POSIX has them")


def write_golden(out: Path) -> None:
    write_bundle(out, golden_manifest(), golden_contents())


def write_and_die(out: Path, how: str) -> None:
    """What the subprocesses run: a write that ends badly at its third file."""
    seen: list[str] = []

    def on_file(path: str, size_bytes: int) -> None:
        seen.append(path)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    if how == "limit":
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
        try:
            write_golden(out)
        except HSError as err:
            print(err)
    else:
        write_bundle(out, golden_manifest(), golden_contents(), on_file)


def run_write_and_die(out: Path, how: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(__file__).parents[2] / "support"), os.environ.get("PYTHONPATH", "")])
    tests = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, __file__, str(out), how]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=tests)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "bundle"


@pytest.fixture
def old(out: Path) -> dict[str, bytes]:
    """A bundle already at `out`, unlike the golden one."""
    write_bundle(out, msgspec.structs.replace(golden_manifest(), device="old"), golden_contents())
    return tree_of(out)


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def neighbours(out: Path) -> list[str]:
    return sorted(p.name for p in out.parent.iterdir() if p != out)


def test_written_bundle_opens_and_is_returned(out: Path) -> None:
    bundle = write_bundle(out, golden_manifest(), golden_contents())
    assert bundle == open_bundle(out)
    assert [r.path for r in bundle.manifest.files] == sorted(golden_contents())
    assert neighbours(out) == []


def test_each_file_is_reported_once_with_its_size(out: Path) -> None:
    seen: list[tuple[str, int]] = []
    write_bundle(out, golden_manifest(), golden_contents(), lambda path, size_bytes: seen.append((path, size_bytes)))
    assert seen == [(path, len(data)) for path, data in sorted(golden_contents().items())]


def test_missing_parents_of_out_are_made(tmp_path: Path) -> None:
    write_golden(tmp_path / "a/b/bundle")
    open_bundle(tmp_path / "a/b/bundle")


def test_files_and_bytes_make_the_same_bundle(out: Path, tmp_path: Path) -> None:
    cached = {path: tmp_path / path.replace("/", "_") for path in golden_contents()}
    for path, data in golden_contents().items():
        cached[path].write_bytes(data)
    linked = tmp_path / "link_to_a_blob"
    linked.symlink_to(cached["weights/large.bin"])
    write_bundle(out, golden_manifest(), cached | {"weights/large.bin": linked})
    assert tree_of(out) == tree_of(GOLDEN)
    assert not (out / "weights/large.bin").is_symlink()


def test_cached_file_is_linked_rather_than_copied(out: Path, tmp_path: Path) -> None:
    cached = tmp_path / "cached"
    cached.write_bytes(bytes(range(256)))
    write_bundle(out, golden_manifest(), golden_contents() | {"weights/large.bin": cached})
    assert cached.samefile(out / "weights/large.bin")


def test_cached_file_is_copied_where_links_are_refused(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> NoReturn:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    cached = tmp_path / "cached"
    cached.write_bytes(bytes(range(256)))
    write_bundle(out, golden_manifest(), golden_contents() | {"weights/large.bin": cached})
    assert tree_of(out) == tree_of(GOLDEN)


@pytest.mark.usefixtures("old")
def test_bundle_is_replaced(out: Path) -> None:
    write_golden(out)
    assert tree_of(out) == tree_of(GOLDEN)
    assert neighbours(out) == []


def test_bundle_can_be_rewritten_from_its_own_files(out: Path) -> None:
    write_golden(out)
    bundle = open_bundle(out)
    write_bundle(out, bundle.manifest, {r.path: bundle.file(r.path) for r in bundle.manifest.files})
    assert tree_of(out) == tree_of(GOLDEN)


def test_damaged_bundle_is_replaced(out: Path, old: dict[str, bytes]) -> None:
    (out / "manifest.json").write_bytes(old["manifest.json"][:40])
    write_golden(out)
    open_bundle(out)


def test_empty_directory_is_replaced(out: Path) -> None:
    out.mkdir()
    write_golden(out)
    open_bundle(out)


def test_link_to_a_bundle_stays_a_link(out: Path, old: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(out, target_is_directory=True)
    write_golden(tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert tree_of(out) == tree_of(GOLDEN)


@pytest.mark.parametrize("file", ["photo.png", "manifest.json"])
def test_directory_that_is_not_a_bundle_is_not_overwritten(out: Path, file: str) -> None:
    out.mkdir()
    (out / file).write_bytes(b'{"manifest_version": 3}')
    with pytest.raises(BundleError, match="is not a bundle; it will not be overwritten"):
        write_golden(out)
    assert tree_of(out) == {file: b'{"manifest_version": 3}'}
    assert neighbours(out) == []


def test_file_is_not_overwritten(out: Path) -> None:
    out.write_bytes(b"precious")
    with pytest.raises(BundleError, match="is not a bundle; it will not be overwritten"):
        write_golden(out)
    assert out.read_bytes() == b"precious"


def test_path_that_leaves_the_bundle_is_never_written(out: Path) -> None:
    with pytest.raises(BundleError, match="not a plain relative path"):
        write_bundle(out, golden_manifest(), golden_contents() | {"../escaped": b""})
    assert neighbours(out) == []


def test_manifest_that_refers_to_nothing_is_not_written(out: Path) -> None:
    contents = golden_contents()
    del contents["weights/large.bin"]
    with pytest.raises(BundleError, match="'large', weights, refers to"):
        write_bundle(out, golden_manifest(), contents)
    assert not out.exists()


def test_manifest_that_would_not_read_back_leaves_the_old_bundle(out: Path, old: dict[str, bytes]) -> None:
    defaults = Defaults(schedule="s", steps=1, guidance_scale=float("nan"))  # JSON has no such number
    with pytest.raises(BundleError, match="guidance_scale"):
        manifest = golden_manifest()
        facts = msgspec.structs.replace(manifest.facts, defaults=defaults)
        write_bundle(out, msgspec.structs.replace(manifest, facts=facts), golden_contents())
    assert tree_of(out) == old
    assert neighbours(out) == []


def test_missing_source_is_named(out: Path, tmp_path: Path) -> None:
    with pytest.raises(HSError, match=r"cannot be read: .*no_such_file"):
        write_bundle(out, golden_manifest(), golden_contents() | {"weights/large.bin": tmp_path / "no_such_file"})
    assert not out.exists()


def test_interrupt_leaves_the_old_bundle(out: Path, old: dict[str, bytes]) -> None:
    def interrupt(path: str, size_bytes: int) -> None:
        if path.startswith("golden"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bundle(out, golden_manifest(), golden_contents(), interrupt)
    assert tree_of(out) == old
    assert neighbours(out) == []


def test_failed_rename_gives_the_old_bundle_its_name_back(
    out: Path, old: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail_for_partial(self: Path, target: Path) -> Path:
        if "partial" in self.name:
            raise PermissionError("refused")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_partial)
    with pytest.raises(HSError, match=r"could not be written: refused; check that .* may be written"):
        write_golden(out)
    assert tree_of(out) == old
    assert neighbours(out) == []


@needs_posix
def test_killed_writer_leaves_the_old_bundle_and_the_next_write_cleans_up(out: Path, old: dict[str, bytes]) -> None:
    assert run_write_and_die(out, "kill").returncode == -signal.SIGKILL
    assert tree_of(out) == old
    (leftover,) = neighbours(out)
    assert leftover.startswith(".bundle.partial-")
    write_golden(out)
    assert tree_of(out) == tree_of(GOLDEN)
    assert neighbours(out) == []


@needs_posix
def test_killed_writer_leaves_no_half_bundle(out: Path) -> None:
    assert run_write_and_die(out, "kill").returncode == -signal.SIGKILL
    assert not out.exists()
    write_golden(out)
    assert neighbours(out) == []


@needs_posix
def test_bundle_moved_aside_by_a_killed_writer_is_restored(out: Path, old: dict[str, bytes]) -> None:
    out.rename(out.with_name(f".bundle.replaced-{dead_pid()}"))

    def interrupt(path: str, size_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bundle(out, golden_manifest(), golden_contents(), interrupt)
    assert tree_of(out) == old
    assert neighbours(out) == []


@needs_posix
def test_half_removed_bundle_is_not_restored(out: Path) -> None:
    (out.with_name(f".bundle.replaced-{dead_pid()}") / "engines").mkdir(parents=True)
    write_golden(out)
    open_bundle(out)
    assert neighbours(out) == []


@needs_posix
def test_leftovers_of_living_writers_and_of_other_bundles_stay(out: Path) -> None:
    others = [f".bundle.partial-{os.getppid()}", f".bundle2.partial-{dead_pid()}", ".bundle.partial-notes"]
    for name in others:
        out.with_name(name).mkdir()
    write_golden(out)
    assert neighbours(out) == sorted(others)


def test_leftover_under_our_own_process_id_is_removed(out: Path) -> None:
    leftover = out.with_name(f".bundle.partial-{os.getpid()}")
    leftover.mkdir()
    (leftover / "stale.bin").write_bytes(b"")
    write_golden(out)
    assert tree_of(out) == tree_of(GOLDEN)


def test_full_disk_is_told_before_anything_is_written(
    out: Path, old: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free=10))
    needed = sum(map(len, golden_contents().values()))
    words = f"needs {bytes_text(needed)}, '.*' has 10 bytes free; free {bytes_text(needed - 10)} there"
    with pytest.raises(HSError, match=words):
        write_golden(out)
    assert tree_of(out) == old
    assert neighbours(out) == []


@needs_posix
def test_refused_write_names_the_file_and_the_bytes_to_free(out: Path, old: dict[str, bytes]) -> None:
    told = run_write_and_die(out, "limit").stdout
    needed = sum(map(len, golden_contents().values()))
    assert "'golden/large.npz' could not be written" in told
    assert f"free {bytes_text(needed)} on" in told
    assert tree_of(out) == old
    assert neighbours(out) == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """64 KiB."""
    with small_disk(tmp_path / "disk", "64k") as disk:
        yield disk


def test_disk_that_fills_up_midway_keeps_the_old_bundle(disk: Path) -> None:
    # More small files than the disk has pages, though their bytes fit: the check beforehand passes.
    contents = golden_contents()
    assert len(contents) > 16
    words = f"could not be written: .*No space left on device.*; free {bytes_text(sum(map(len, contents.values())))} on"
    out = disk / "bundle"
    out.mkdir()
    (out / "manifest.json").write_bytes(b'{"format_version": 0}')
    with pytest.raises(HSError, match=words):
        write_golden(out)
    assert tree_of(out) == {"manifest.json": b'{"format_version": 0}'}
    assert neighbours(out) == []


def test_bundle_larger_than_the_disk_is_refused_beforehand(disk: Path) -> None:
    contents = golden_contents() | {"weights/large.bin": bytes(100_000)}
    with pytest.raises(HSError, match=r"the bundle needs 10\d\.\d kB, .* has 65\.5 kB free"):
        write_bundle(disk / "bundle", golden_manifest(), contents)
    assert list(disk.iterdir()) == []


if __name__ == "__main__":
    write_and_die(Path(sys.argv[1]), sys.argv[2])


def write_and_read(out: Path, schedule: str) -> Defaults:
    """Rewrites the golden bundle's defaults; what a reader then finds."""
    write_defaults(out, Defaults(schedule=schedule, steps=14, guidance_scale=4.5))
    return open_bundle(out).manifest.facts.defaults


def test_defaults_are_replaced_and_no_other_file_is_touched(out: Path, old: dict[str, bytes]) -> None:
    assert write_and_read(out, "large:14").schedule == "large:14"
    new = tree_of(out)
    assert new.keys() == old.keys()
    assert [name for name in new if new[name] != old[name]] == ["manifest.json"]
    assert not neighbours(out)


@pytest.mark.usefixtures("old")
def test_defaults_that_no_reader_would_take_leave_the_old_ones(out: Path) -> None:
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match="steps"):
        write_defaults(out, Defaults(schedule="large:0", steps=0, guidance_scale=4.5))
    assert (out / "manifest.json").read_bytes() == before
    assert not neighbours(out)


def test_defaults_of_what_is_no_bundle_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        write_and_read(tmp_path, "large:14")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("old")
def test_manifest_shared_by_a_hard_link_keeps_its_bytes(out: Path, tmp_path: Path) -> None:
    other = tmp_path / "shared.json"
    os.link(out / "manifest.json", other)
    before = other.read_bytes()
    write_and_read(out, "large:14")
    assert other.read_bytes() == before
