"""Nothing is sent anywhere, and nothing is written but what was asked for: each command in an empty home, traced."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from served import Served
from tools import needs
from traced import Traced

HSEXPORT = (sys.executable, "-m", "hsexport.cli.main")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def traced(tmp_path):
    needs("strace")
    if subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets no process be traced")
    return Traced(tmp_path / "traced")


def test_run_is_private(traced, tiny_bundle, tmp_path):
    traced.run(*HSEXPORT, "run", tiny_bundle, "--prompt", "red", "--out", tmp_path / "red.png")
    _is_private(traced, tmp_path / "red.png", tmp_path / ".red.png")
    assert (tmp_path / "red.png").exists()


@pytest.mark.slow
def test_run_on_openvino_keeps_kernels_and_nothing_else(traced, tiny_openvino_bundle, tmp_path):
    traced.run(*HSEXPORT, "run", tiny_openvino_bundle, "--prompt", "red", "--out", tmp_path / "red.png")
    kept = traced.home / ".cache" / "hsexport" / "openvino"
    assert {file.suffix for file in traced.home.rglob("*") if file.is_file()} == {".blob"}
    assert traced.written(tmp_path / "red.png", tmp_path / ".red.png", kept, kept.parent, kept.parents[1]) == set()
    assert traced.spoke_to() == set()


@pytest.mark.slow
def test_serve_is_private(traced, tiny_bundle):
    command = traced.command(*HSEXPORT, "serve", tiny_bundle, "--port", "0")
    process = subprocess.Popen(command, env=traced.environment, stderr=subprocess.PIPE, text=True)
    try:
        assert Served(process).ask().status_code == 200
        (child,) = psutil.Process(process.pid).children()
        child.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
    _is_private(traced)


@pytest.mark.slow
def test_c_host_is_private(traced, service, tiny_bundle, tmp_path):
    traced.environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT / "runtime", ROOT / "engines")))
    traced.run(service, tiny_bundle, "--out", tmp_path, "--pictures", "1")
    _is_private(traced, tmp_path)


@pytest.mark.slow
def test_build_is_private(traced, tiny_pair_dirs, tmp_path):
    large, small = tiny_pair_dirs
    out, cache = tmp_path / "bundle", tmp_path / "cache"
    traced.run(*HSEXPORT, "build", "--large", large, "--small", small, "--out", out, "--cache", cache)
    _is_private(traced, out, cache, tmp_path / ".bundle")


@pytest.mark.slow
def test_batch_is_private(traced, tiny_bundle, tmp_path):
    (tmp_path / "prompts.txt").write_text("red\n")
    before = set(Path("/tmp").glob("hsexport-ray-*"))  # of jobs that were killed
    traced.run(*HSEXPORT, "batch", tiny_bundle, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "out")
    _is_private(traced, tmp_path / "out", Path("/tmp/hsexport-ray-"))
    assert set(Path("/tmp").glob("hsexport-ray-*")) <= before


def _is_private(traced: Traced, *asked_for: Path) -> None:
    assert list(traced.home.iterdir()) == []
    assert traced.written(*asked_for) == set()
    assert traced.spoke_to() == set()
    # torch makes a folder for a compiler that is not used.
    assert [file for file in traced.temporary.rglob("*") if not file.is_dir()] == [], "left behind"


def test_the_trace_sees_a_file_and_a_look_up(traced, tmp_path):
    """What the tests above rely on."""
    program = """
import socket, sys
open(sys.argv[1], "w")
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"?", ("203.0.113.9", 53))
except OSError:
    pass
"""
    traced.run(sys.executable, "-c", program, tmp_path / "other")
    assert traced.written() == {str(tmp_path / "other")}
    assert traced.spoke_to() == {"203.0.113.9"}


def test_a_forked_child_ends_after_a_session(tiny_bundle):
    """Threads of a library's telemetry have kept such children for ever."""
    program = """
import os, sys
from hsruntime import Session
with Session.open(sys.argv[1]) as session:
    session.generate("red")
child = os.fork()
if not child:
    sys.exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
"""
    subprocess.run([sys.executable, "-c", program, str(tiny_bundle)], check=True, timeout=120)


@pytest.mark.parametrize(
    ("module", "name", "off"),
    [
        ("hsengines.ort.cpu", "ORT_DISABLE_TELEMETRY", "1"),
        ("hsexport", "HF_HUB_DISABLE_TELEMETRY", "1"),
        ("hsexport", "RAY_USAGE_STATS_ENABLED", "0"),
    ],
)
@pytest.mark.parametrize("chosen", [None, "chosen"])
def test_telemetry_is_off_unless_the_user_says_otherwise(module, name, off, chosen):
    environment = {key: value for key, value in os.environ.items() if key != name} | ({name: chosen} if chosen else {})
    program = f"import os, {module}; print(os.environ[{name!r}])"
    told = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == (chosen or off)
