"""The C++ example, compiled by the real compiler: a program that starts Python itself."""

from __future__ import annotations

import re
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from capi_builds import EXAMPLE, SOURCES, built_service, run
from PIL import Image

from hsruntime import Session

FLAT_KIB = 16 * 1024


def resident(printed: str) -> list[int]:
    """KiB at start, warm, at the end."""
    return [int(n) for n in re.findall(r"(\d+) KiB", printed)]


def test_pictures_are_python_s_byte_for_byte(service, tiny_bundle, tmp_path):
    run(service, tiny_bundle, "--out", tmp_path, "--threads", "2", "--pictures", "3", "--prompt", "red", "--seed", "4")
    with Session.open(tiny_bundle, hashes=False) as session:
        for number in range(3):
            found = np.asarray(Image.open(tmp_path / f"picture-{number}.png"))
            np.testing.assert_array_equal(found, session.generate("red", seed=4 + number).image)


PICTURE = np.random.default_rng(3).integers(0, 256, (16, 16, 3), np.uint8)
MASK = np.zeros((16, 16), np.uint8)
MASK[3:9, 5:14] = 255


def beginning(folder: Path) -> list[str | Path]:
    """What a picture begins from, as the example's options."""
    folder.mkdir()
    for name, pixels in (("image", PICTURE), ("mask", MASK)):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return ["--image", folder / "image.png", "--mask", folder / "mask.png", "--strength", "0.7"]


def test_pictures_begin_from_a_file(service, tiny_bundle, tmp_path):
    files = beginning(tmp_path / "from")
    run(service, tiny_bundle, "--out", tmp_path, "--pictures", "1", "--prompt", "red", *files)
    found = np.asarray(Image.open(tmp_path / "picture-0.png"))
    with Session.open(tiny_bundle, hashes=False) as session:
        expected = session.generate("red", image=PICTURE, mask=MASK, strength=0.7).image
    np.testing.assert_array_equal(found, expected)


def test_pkg_config_and_embed_compile_it_too(library, tiny_bundle, tmp_path):
    asked = ("pkg-config", "--cflags", "--libs", "hsruntime", "libpng")
    flags = run(*asked, PKG_CONFIG_PATH=library.pkg_config_dir).stdout.split()
    rpath = f"-Wl,-rpath,{library.file.parent}"
    run("g++", EXAMPLE / "service.cpp", "-o", tmp_path / "by_pkg_config", *flags, rpath, "-pthread")
    run(
        "g++", EXAMPLE / "service.cpp", "-o", tmp_path / "by_embed", *library.cflags, *library.libs, "-lpng", "-pthread"
    )
    for name in ("by_pkg_config", "by_embed"):
        printed = run(tmp_path / name, tiny_bundle, "--out", tmp_path, "--pictures", "1").stdout
        assert "1 pictures, 0 cancelled" in printed


@pytest.mark.slow
def test_eight_threads_make_200_pictures_in_flat_memory(service, tiny_bundle, tmp_path):
    printed = run(service, tiny_bundle, "--out", tmp_path, "--threads", "8", "--pictures", "200").stdout
    assert "200 pictures, 0 cancelled" in printed
    assert re.search(r"latency p50 [\d.]+ ms, p90 [\d.]+ ms, p99 [\d.]+ ms", printed)
    assert len(list(tmp_path.glob("*.png"))) == 200
    start, warm, end = resident(printed)
    assert 0 < start < warm
    assert end - warm < FLAT_KIB, printed


def test_cancelled_pictures_take_no_further_step(service, tiny_bundle, tmp_path):
    printed = run(service, tiny_bundle, "--out", tmp_path, "--pictures", "6", "--cancel-after", "2").stdout
    assert "0 pictures, 6 cancelled (0 steps later)" in printed
    assert not list(tmp_path.glob("*.png"))


def test_missing_bundle_is_one_line(service, tmp_path):
    done = run(service, tmp_path / "no", status=1)
    assert done.stderr.startswith("service: HSR_ERROR_BUNDLE: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("python", "words"),
    [("/nowhere/python", "'/nowhere/python' cannot be run"), ("/bin/true", "'/bin/true' has no shared libpython")],
)
def test_unusable_interpreter_is_told(service, tiny_bundle, python, words):
    done = run(service, tiny_bundle, status=1, HSRUNTIME_PYTHON=python)
    assert f"HSR_ERROR_PYTHON: {words}" in done.stderr


def test_interpreter_of_an_environment_finds_its_packages(service, tiny_bundle, tmp_path):
    """The environment of a program's own: nothing but a path file in its site-packages leads to hsruntime."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    packages = next((tmp_path / "env" / "lib").glob("python3*")) / "site-packages"
    here = [place for place in sys.path if place.endswith("site-packages")]
    (packages / "here.pth").write_text("\n".join([*SOURCES.split(":"), *here]))
    python = str(tmp_path / "env" / "bin" / "python")
    printed = run(
        service, tiny_bundle, "--out", tmp_path, "--pictures", "1", HSRUNTIME_PYTHON=python, PYTHONPATH=""
    ).stdout
    assert "1 pictures" in printed


@pytest.fixture(scope="module")
def asan_service(library, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("asan")
    sources = Path(EXAMPLE).parents[2] / "runtime" / "capi"
    prefix, flags = folder / "capi", "-DCMAKE_CXX_FLAGS=-fsanitize=address -fno-omit-frame-pointer -g"
    places = (f"-DCMAKE_INSTALL_PREFIX={prefix}", "-DCMAKE_INSTALL_LIBDIR=lib", f"-DHSRUNTIME_PYTHON={sys.executable}")
    run("cmake", "-S", sources, "-B", folder / "library", flags, *places)
    run("cmake", "--build", folder / "library")
    run("cmake", "--install", folder / "library")
    checked = type(library)([], [], str(prefix / "lib" / "cmake" / "hsruntime"), "")
    return built_service(checked, folder / "service", flags)


@pytest.mark.slow
def test_address_sanitizer_finds_nothing(asan_service, tiny_bundle, tmp_path):
    done = run(
        asan_service, tiny_bundle, "--out", tmp_path, "--threads", "4", "--pictures", "12",
        *beginning(tmp_path / "from"),
        ASAN_OPTIONS="detect_leaks=1:fast_unwind_on_malloc=0",
        LSAN_OPTIONS=f"suppressions={EXAMPLE / 'leaks.supp'}:print_suppressions=0",
        PYTHONMALLOC="malloc",
    )  # fmt: skip
    assert "12 pictures" in done.stdout
    assert "AddressSanitizer" not in done.stderr
    assert "LeakSanitizer" not in done.stderr


@pytest.mark.slow
def test_valgrind_finds_nothing(service, tiny_bundle, tmp_path):
    done = run(
        "valgrind", "--error-exitcode=9", f"--suppressions={EXAMPLE / 'valgrind.supp'}", service, tiny_bundle,
        "--out", tmp_path, "--threads", "2", "--pictures", "2", "--cpu-threads", "1", *beginning(tmp_path / "from"),
        seconds=1800, PYTHONMALLOC="malloc",
    )  # fmt: skip
    assert "2 pictures" in done.stdout
