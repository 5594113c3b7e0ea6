"""Cores that a process may use: affinity and control groups, of both versions, on made-up trees."""

import os
import subprocess
import sys

import pytest

from hsengines.cores import quotas, usable_cores


@pytest.fixture
def tree(tmp_path):
    """Writes the files of a tree of control groups, and what /proc/self/cgroup says of this process."""

    def make(own, **files):
        for name, text in files.items():
            file = tmp_path / "root" / name.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (tmp_path / "own").write_text(own)
        return tmp_path / "root", tmp_path / "own"

    return make


def test_quota_of_version_2_is_the_group_s_and_its_parents(tree):
    root, own = tree("0::/a/b\n")
    for folder, text in (("a", "150000 100000\n"), ("a/b", "max 100000\n")):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "cpu.max").write_text(text)
    assert quotas(root, own) == [1.5]


def test_quota_of_a_container_is_at_the_root_s_own_place(tree):
    root, own = tree("0::/\n")
    root.mkdir()
    (root / "cpu.max").write_text("50000 100000")
    assert quotas(root, own) == [0.5]


def test_quota_of_version_1(tree):
    root, own = tree("4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n")
    folder = root / "cpu,cpuacct" / "docker" / "x"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("200000")
    (folder / "cpu.cfs_period_us").write_text("100000")
    assert quotas(root, own) == [2.0]
    (folder / "cpu.cfs_quota_us").write_text("-1")
    assert quotas(root, own) == []


@pytest.mark.parametrize("text", ["", "max", "x y", "1 0", "-5 100"])
def test_quota_that_makes_no_sense_is_none(tree, text):
    root, own = tree("0::/\n")
    root.mkdir()
    (root / "cpu.max").write_text(text)
    assert quotas(root, own) == []


def test_no_groups_at_all(tmp_path):
    assert quotas(tmp_path / "root", tmp_path / "own") == []


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_counts_and_more_threads_than_cores_warn(tiny_bundle):
    """In a process of its own, held to one core."""
    program = """
import os, sys, warnings
os.sched_setaffinity(0, {next(iter(os.sched_getaffinity(0)))})
from hsengines.cores import usable_cores
assert usable_cores() == 1
from hsruntime import Session
before = len(os.listdir("/proc/self/task"))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with Session.open(sys.argv[1], threads=int(sys.argv[2])) as session:
        session.generate("red", schedule="small:1")
print([str(w.message) for w in caught if "threads asked for" in str(w.message)])
"""
    for threads, told in (("0", "[]"), ("1", "[]"), ("3", "['3 threads asked for, but this process may use 1 cores']")):
        done = subprocess.run(
            [sys.executable, "-c", program, str(tiny_bundle), threads], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == told


def test_at_least_one():
    assert usable_cores() >= 1
