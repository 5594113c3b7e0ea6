"""Archives of bundles: whole, checkable, the same every time, or not there."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections import namedtuple

import pytest

from hsengines.errors import HSError
from hsexport.deploy.archive import archive
from hsexport.deploy.archive.archive import archive_bundle
from hsexport.progress import Reporter


def unpacked(out, folder):
    with tarfile.open(out) as tar:
        tar.extractall(folder, filter="data")
    return folder / out.name.partition(".")[0]


@pytest.mark.parametrize("suffix", archive.SUFFIXES)
def test_archive_holds_the_bundle_and_sums_that_sha256sum_accepts(tiny_bundle, tmp_path, suffix):
    from hsruntime.bundle.reader import open_bundle

    done = archive_bundle(tiny_bundle, tmp_path / f"a{suffix}", None, Reporter())
    top = unpacked(done.archive, tmp_path / "there")
    assert sorted(file.name for file in top.iterdir()) == ["SHA256SUMS", "bundle"]
    assert open_bundle(top / "bundle").manifest == open_bundle(tiny_bundle).manifest
    files = [file for file in top.rglob("*") if file.is_file()]
    assert len((top / "SHA256SUMS").read_text().splitlines()) == len(files) - 1
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=top, check=True)
    (top / "bundle" / "manifest.json").write_bytes(b"{}")
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=top, capture_output=True).returncode


@pytest.mark.parametrize("suffix", archive.SUFFIXES)
def test_equal_contents_give_equal_bytes(tiny_bundle, tmp_path, suffix):
    copy = tmp_path / "elsewhere" / "named otherwise"
    shutil.copytree(tiny_bundle, copy, copy_function=shutil.copyfile)  # other times than the bundle's own
    for bundle, folder in ((tiny_bundle, tmp_path / "x"), (copy, tmp_path / "y")):
        folder.mkdir()
        archive_bundle(bundle, folder / f"a{suffix}", None, Reporter())
    assert (tmp_path / "x" / f"a{suffix}").read_bytes() == (tmp_path / "y" / f"a{suffix}").read_bytes()


class StopsAtThird(Reporter):
    """Ctrl-C once two files are done."""

    ended = 0

    def end(self, item, note=""):
        self.ended += 1
        if self.ended == 3:
            raise KeyboardInterrupt


def test_an_interrupted_one_leaves_nothing_and_the_archive_before_it(tiny_bundle, tmp_path):
    (tmp_path / "a.tar").write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt):
        archive_bundle(tiny_bundle, tmp_path / "a.tar", None, StopsAtThird())
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]
    assert (tmp_path / "a.tar").read_bytes() == b"before"


def test_what_a_killed_one_left_is_removed_by_the_next(tiny_bundle, tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = tmp_path / f".a.tar.partial-{ended.pid}"
    left.mkdir()
    (left / "archive").write_bytes(b"half")
    archive_bundle(tiny_bundle, tmp_path / "a.tar", None, Reporter())
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize(("change", "found"), [(b"\x00", "has sha256"), (None, "ended after")])
def test_a_file_that_is_not_what_the_manifest_says_is_named(tiny_bundle, tmp_path, monkeypatch, change, found):
    """As when it rots or is replaced after the sizes were looked at."""
    broken = tmp_path / "broken"
    shutil.copytree(tiny_bundle, broken)
    file = broken / "engines" / "large.onnx.data"
    data = bytearray(file.read_bytes())
    if change:
        data[100] ^= 1
    monkeypatch.setattr("hsruntime.bundle.reader._check_sizes", lambda *_: None)
    file.write_bytes(data if change else data[:-1])
    with pytest.raises(HSError, match=rf"bundle/engines/large\.onnx\.data' {found}"):
        archive_bundle(broken, tmp_path / "a.tar", None, Reporter())
    assert [file.name for file in tmp_path.iterdir()] == ["broken"]


def test_a_full_disk_is_told_before_anything_is_written(tiny_bundle, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**6, 10**6 - 1000, 1000)
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: usage)
    words = r"the archive needs \d+\.\d [kM]B, .* has 1\.0 kB free; free \d+\.\d [kM]B there"
    with pytest.raises(HSError, match=words):
        archive_bundle(tiny_bundle, tmp_path / "a.tar", None, Reporter())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.zip", r"\.tar or \.tar\.gz"), (".tar", "does not end"), ("nowhere/a.tar", "not a directory")],
)
def test_a_place_that_will_not_do_is_refused(tiny_bundle, tmp_path, name, words):
    with pytest.raises(HSError, match=words):
        archive_bundle(tiny_bundle, tmp_path / name, None, Reporter())


def test_an_archive_inside_its_bundle_is_refused(tiny_bundle):
    with pytest.raises(HSError, match="inside the bundle"):
        archive_bundle(tiny_bundle, tiny_bundle / "a.tar", None, Reporter())
