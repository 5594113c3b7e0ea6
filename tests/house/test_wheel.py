"""The wheel holds what it should, and makes the same picture where torch was never installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest
from tools import needs

ROOT = Path(__file__).parents[2]
DEMO_FILES = ("large/model_index.json", "large/transformer/config.json", "small/transformer/config.json")
OFFLINE = re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeout|Network is unreachable|ProxyError")
LIBRARY_FILES = (
    *("include/hsruntime.h", "include/hsruntime_dlpack.h", "lib/libhsruntime.so", "lib/libhsruntime.so.2"),
    *("lib/cmake/hsruntime/hsruntimeConfig.cmake", "lib/pkgconfig/hsruntime.pc", "source/CMakeLists.txt"),
)
OPEN_IN_C = """
#include <hsruntime.h>
#include <stdio.h>
int main(int count, char **words) {
    hsr_session *session;
    const char *json;
    if (count < 2 || hsr_open(words[1], NULL, &session) || hsr_describe(session, &json)) {
        fprintf(stderr, "%s", hsr_last_error());
        return 1;
    }
    puts(json);
    return hsr_close(session);
}
"""
RUN = """
import json, sys
from hsexport.cli.main import main
sys.argv = ["hsexport", "run", sys.argv[1], "--prompt", "x", "--seed", "0", "--out", sys.argv[2]]
try:
    main()
except SystemExit as done:
    assert not done.code, done.code
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """The command's stdout, in an environment that points at no source tree. Fails the test with its stderr."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    if done.returncode and OFFLINE.search(done.stderr):
        pytest.skip("pip cannot reach a package index")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return next(out.glob("hsexport-*.whl"))


@pytest.fixture(scope="module")
def bare_python(wheel, tmp_path_factory) -> Path:
    """An interpreter whose environment holds the wheel with [cpu] and nothing else."""
    home = tmp_path_factory.mktemp("bare")
    venv.create(home / "env", with_pip=True, symlinks=os.name != "nt")
    python = home / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    constraints = ROOT / "requirements" / "cpu.txt"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", constraints, f"{wheel}[cpu]", cwd=home)
    return python


def picture_and_modules(python: str | Path, bundle: Path, folder: Path) -> tuple[bytes, set[str]]:
    """The PNG that `hsexport run` writes, and the top-level modules it loaded on the way."""
    out = folder / "a.png"
    printed = run(python, "-c", RUN, bundle, out, cwd=folder)
    return out.read_bytes(), set(json.loads(printed.splitlines()[-1]))


def test_wheel_holds_the_three_packages_and_nothing_else(wheel):
    names = ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "hsexport",
        "hsruntime",
        "hsengines",
        f"{'-'.join(wheel.name.split('-')[:2])}.dist-info",
    }
    assert {"hsexport/cli/main.py", "hsruntime/session.py", "hsengines/ort/cpu.py"} <= set(names)


def test_wheel_carries_the_demo_pair(wheel):
    if not (ROOT / "hsexport" / "demo" / "large").is_dir():
        pytest.skip("this checkout has no demo pair; train it: scripts/train_demo_pair")
    names = ZipFile(wheel).namelist()
    assert all(f"hsexport/demo/{name}" in names for name in DEMO_FILES)


@pytest.mark.slow
def test_wheel_with_cpu_extra_brings_no_torch(bare_python, tmp_path):
    listed = json.loads(run(bare_python, "-m", "pip", "list", "--format", "json", cwd=tmp_path))
    names = {package["name"].lower() for package in listed}
    assert {"hsexport", "onnxruntime"} <= names
    assert not names & {"torch", "diffusers", "transformers", "onnx", "pydantic", "polygraphy", "typer"}


@pytest.mark.slow
def test_picture_without_torch_is_the_same_byte_for_byte(bare_python, tiny_bundle, tmp_path):
    folders = [tmp_path / "bare", tmp_path / "here"]
    for folder in folders:
        folder.mkdir()
    bare, _ = picture_and_modules(bare_python, tiny_bundle, folders[0])
    here, modules = picture_and_modules(sys.executable, tiny_bundle, folders[1])
    assert bare == here
    assert not modules & {"torch", "diffusers", "transformers", "onnx"}  # installed here, and yet not loaded


def test_wheel_carries_the_c_library_for_this_platform(wheel):
    needs("cmake", "g++")
    names = set(ZipFile(wheel).namelist())
    assert {f"hsruntime/capi/{name}" for name in LIBRARY_FILES} <= names
    assert wheel.name.endswith(f"-py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}.whl")


@pytest.mark.slow
def test_installed_library_is_linked_and_finds_its_own_environment(bare_python, tiny_bundle, tmp_path):
    """The wheel's own library, without a word about Python: it lies in the environment that it hosts."""
    needs("cmake", "g++")
    source = tmp_path / "open.c"
    source.write_text(OPEN_IN_C)
    embed = (
        "import sys; sys.argv = ['hsexport', 'embed', '--cflags', '--libs']; from hsexport.cli.main import main; main()"
    )
    flags = run(bare_python, "-c", embed, cwd=tmp_path).split()
    run("cc", source, "-o", tmp_path / "open", *flags, cwd=tmp_path)
    prefix = run(tmp_path / "open", tiny_bundle, cwd=tmp_path)
    assert json.loads(prefix)["max_batch"] == 4
