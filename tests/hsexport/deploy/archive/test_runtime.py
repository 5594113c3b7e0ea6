"""The runtime of an archive: pins, our own wheel, the lines that install it."""

from __future__ import annotations

from importlib.metadata import PathDistribution, version
from pathlib import Path
from zipfile import ZipFile

import pytest

from hsengines.errors import HSError
from hsexport.deploy.archive.archive import RuntimeOptions, install_steps
from hsexport.deploy.archive.pins import Target, given_versions, pins_of
from hsexport.deploy.archive.wheels import LEFT_OUT, own_wheel, repacked, requirements_of

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return own_wheel(tmp_path_factory.mktemp("own"))


def test_our_own_wheel_fits_every_platform_and_is_the_same_twice(wheel, tmp_path):
    assert wheel.name.endswith("-py3-none-any.whl")
    assert own_wheel(tmp_path).read_bytes() == wheel.read_bytes()


def test_the_wheel_leaves_the_demo_pair_behind_and_nothing_else(wheel):
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert (ROOT / "hsexport" / "demo" / "small" / "transformer" / "config.json").is_file()
    files = {str(f.relative_to(ROOT)) for f in (ROOT / "hsexport").rglob("*") if f.is_file() and f.suffix != ".pyc"}
    assert files - names == {name for name in files if name.startswith(LEFT_OUT)}


def names(pins):
    return {pin.partition("==")[0] for pin in pins}


def test_pins_are_the_runtime_and_its_backend_as_installed_and_never_torch(wheel):
    pins = pins_of(requirements_of(wheel), "cpu", Target(), {})
    assert {f"onnxruntime=={version('onnxruntime')}", f"numpy=={version('numpy')}"} <= set(pins)
    assert {"msgspec", "pillow", "tokenizers", "click", "flatbuffers"} <= names(pins)
    assert not names(pins) & {"torch", "diffusers", "transformers", "onnx", "tensorrt-rtx-cu13", "pytest", "ray"}


def test_another_backend_brings_its_own_libraries(wheel):
    pins = pins_of(requirements_of(wheel), "rtx", Target(), {})
    assert {"tensorrt-rtx-cu13", "tensorrt-rtx-cu13-libs", "cuda-bindings", "cuda-pathfinder"} <= names(pins)
    assert "onnxruntime" not in names(pins)


def test_what_is_neither_installed_nor_given_is_asked_for(wheel):
    with pytest.raises(HSError, match=r"needs 'colorama.*not known here; install it, .*colorama==VERSION"):
        pins_of(requirements_of(wheel), "cpu", Target(platform="windows-x86_64"), {})
    pins = pins_of(requirements_of(wheel), "cpu", Target(platform="windows-x86_64"), {"colorama": "0.4.6"})
    assert "colorama==0.4.6" in pins


def test_given_versions_go_first_and_must_fit(wheel):
    assert "onnxruntime==1.24.1" in pins_of(requirements_of(wheel), "cpu", Target(), {"onnxruntime": "1.24.1"})
    with pytest.raises(HSError, match=r"needs 'onnxruntime>=1\.24.*onnxruntime 1\.2\.0 is given"):
        pins_of(requirements_of(wheel), "cpu", Target(), {"onnxruntime": "1.2.0"})


def test_given_versions_are_read_strictly(tmp_path):
    file = tmp_path / "versions"
    file.write_text("# as tested\nML_dtypes==0.5.1  # here\n\n")
    assert given_versions(file) == {"ml-dtypes": "0.5.1"}
    file.write_text("numpy>=2.0\n")
    with pytest.raises(HSError, match=r"'numpy>=2\.0' does not say name==version"):
        given_versions(file)


def test_a_wheel_repacked_from_its_installation_holds_the_same_files(wheel, tmp_path):
    """Unpacking is what an installer does to a wheel like ours, besides its own notes and the scripts."""
    site, again = tmp_path / "site", tmp_path / "again"
    again.mkdir()
    with ZipFile(wheel) as archive:
        archive.extractall(site)
    info = next(site.glob("*.dist-info"))
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text((info / "RECORD").read_text() + f"{info.name}/INSTALLER,,\n../../bin/hsexport,,\n")
    made = repacked(PathDistribution(info), again)
    assert made.name == wheel.name
    assert contents(made) == contents(wheel)
    (site / "hsexport" / "progress.py").write_text("")
    with pytest.raises(HSError, match=r"hsexport/progress\.py' was changed"):
        repacked(PathDistribution(info), again)


def contents(wheel):
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"platform": "amiga"}, "no platform 'amiga'; choose one of linux-x86_64"),
        ({"python": "3"}, "no Python version"),
    ],
)
def test_targets_that_do_not_exist_are_refused(asked, words):
    with pytest.raises(HSError, match=words):
        Target(**asked)


def test_five_lines_install_it_without_a_network_unless_wheels_were_left_out():
    lines = install_steps(Path("my box.tar"), "w.whl", RuntimeOptions(Target("3.12", "linux-aarch64")))
    assert len(lines) == 5 and lines[0] == "tar -xf 'my box.tar' && cd 'my box'"
    assert "python3.12" in lines[2] and "--no-index" in lines[3]
    assert "--no-index" not in install_steps(Path("a.tar"), "w.whl", RuntimeOptions(wheels=False))[3]
    assert "env\\Scripts" in install_steps(Path("a.tar"), "w", RuntimeOptions(Target("3.12", "windows-x86_64")))[4]
