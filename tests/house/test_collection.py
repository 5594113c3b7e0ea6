"""pytest looks into every folder that holds tests: by its default it leaves out all that are called build."""

from fnmatch import fnmatch
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_no_folder_of_tests_is_left_out(pytestconfig):
    folders = {part for file in TESTS.rglob("test_*.py") for part in file.relative_to(TESTS).parts[:-1]}
    assert "build" in folders
    left_out = {f for f in folders for pattern in pytestconfig.getini("norecursedirs") if fnmatch(f, pattern)}
    assert not left_out
