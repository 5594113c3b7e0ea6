"""`hsexport pack`, and its archive on a machine without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile

import pytest
from one_line import told_in_one_line


@pytest.mark.slow
def test_pack_without_wheels_holds_our_wheel_and_pins_and_is_the_same_twice(hsexport, tiny_bundle, tmp_path):
    for folder in (tmp_path / "x", tmp_path / "y"):
        folder.mkdir()
        done = hsexport("pack", tiny_bundle, "--runtime", "--no-wheels", "--out", folder / "a.tar", "--json")
        assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (tmp_path / "x" / "a.tar").read_bytes() == (tmp_path / "y" / "a.tar").read_bytes()
    with tarfile.open(tmp_path / "x" / "a.tar") as tar:
        names = tar.getnames()
        pins = tar.extractfile("a/requirements.txt").read().decode().splitlines()
        steps = tar.extractfile("a/INSTALL").read().decode().splitlines()
    assert [name for name in names if "/wheels/" in name] == [f"a/wheels/{told['wheels'][0]}"]
    assert {"a/SHA256SUMS", "a/INSTALL", "a/requirements.txt", "a/bundle/manifest.json"} <= set(names)
    assert pins == told["requirements"] and len(steps) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "a.zip"], [".tar or .tar.gz"]),
        (["--out", "a.tar", "--python", "3.12"], ["add --runtime"]),
        (["--out", "a.tar", "--runtime", "--platform", "amiga"], ["no platform 'amiga'"]),
    ],
)
def test_bad_orders_are_told_in_one_line(hsexport, tiny_bundle, tmp_path, arguments, words):
    told_in_one_line(hsexport("pack", tiny_bundle, *arguments, cwd=tmp_path), *words)
    assert not list(tmp_path.iterdir())


def test_a_path_that_is_no_bundle_is_not_packed(hsexport, tmp_path):
    told_in_one_line(hsexport("pack", tmp_path / "nothing", "--out", tmp_path / "a.tar"), "nothing")


@pytest.mark.slow
def test_the_five_lines_make_the_same_picture_where_there_is_no_network_and_no_torch(hsexport, tiny_bundle, tmp_path):
    archive = tmp_path / "box" / "a.tar"
    archive.parent.mkdir()
    done = hsexport("pack", tiny_bundle, "--runtime", "--out", archive, "--json", timeout=600)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["wheels"]) == len(json.loads(done.stdout)["requirements"]) + 1
    with tarfile.open(archive) as tar:
        steps = tar.extractfile("a/INSTALL").read().decode().splitlines()
    at_box(steps, archive.parent)
    here = hsexport("run", tiny_bundle, "--prompt", "red apple", "--out", tmp_path / "here.png")
    assert here.returncode == 0, here.stderr
    assert (archive.parent / "a" / "picture.png").read_bytes() == (tmp_path / "here.png").read_bytes()
    listed = at_box(["cd a", "env/bin/python -m pip list --format freeze"], archive.parent)
    assert "onnxruntime==" in listed and "torch" not in listed


def at_box(steps, folder):
    """Runs shell lines with no network but the loopback, and none of this environment's paths; returns stdout."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("only root can take the network away: unshare --net")
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = ["unshare", "--net", "bash", "-ec", "\n".join(steps)]
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
