"""`hsexport embed` tells where the C library is, or how to get it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from hsengines.errors import HSError
from hsexport.cli.main import app
from hsexport.deploy import capi


def test_checkout_without_the_library_says_how_to_build_it():
    done = CliRunner().invoke(app, ["embed", "--cflags"])
    assert isinstance(done.exception, HSError)
    assert str(done.exception) == "this installation carries no libhsruntime; build it: hsexport embed --build DIR"


def test_missing_cmake_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    done = CliRunner().invoke(app, ["embed", "--build", str(tmp_path)])
    assert "there is no cmake; install CMake" in str(done.exception)


@pytest.fixture
def shipped(monkeypatch, tmp_path):
    """A package that carries the library, by its files' names."""
    for name in ("include/hsruntime.h", "lib/libhsruntime.so"):
        file = tmp_path / "capi" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.setattr(capi, "PACKAGE", tmp_path)
    return tmp_path / "capi"


def test_flags_are_printed_on_one_line(shipped):
    printed = CliRunner().invoke(app, ["embed", "--cflags", "--libs"]).stdout
    assert printed == f"-I{shipped}/include -L{shipped}/lib -lhsruntime -Wl,-rpath,{shipped}/lib\n"


def test_json_tells_all(shipped):
    facts = json.loads(CliRunner().invoke(app, ["embed", "--json"]).stdout)
    assert facts["cmake-dir"] == f"{shipped}/lib/cmake/hsruntime"
    assert facts["pkg-config-dir"] == f"{shipped}/lib/pkgconfig"
