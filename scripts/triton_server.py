"""NVIDIA's Triton server without a container, to try a model repository on this machine (Linux, glibc 2.35 or later).

    .venv/bin/python scripts/triton_server.py REPO [options of tritonserver]

The first call installs the server from the wheel nvidia-pytriton into build/triton (150 MB on the disk).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "build" / "triton"
WHEEL = "nvidia-pytriton==0.7.0"  # Triton 2.51, that is 24.10
# Before 24.12 the python backend misreads numpy 2's arrays and dies: triton-inference-server/python_backend, pull 384.
NUMPY = "numpy==1.26.4"
START_SECONDS, STOP_SECONDS = 90, 15


@dataclass(frozen=True)
class Installation:
    """Where the server lies, and the Python environment in which its models run."""

    home: Path

    @property
    def environment(self) -> Path:
        """A virtual environment: an older numpy before this interpreter's packages and this checkout."""
        return self.home / "python"

    @property
    def _triton(self) -> Path:
        return self.home / "wheel" / "pytriton" / "tritonserver"

    @property
    def backend(self) -> Path:
        """The python backend's folder."""
        return self._triton / "backends" / "python"

    @property
    def stub(self) -> Path:
        """The program in which models run, built for this interpreter's version."""
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return self._triton / "python_backend_stubs" / version / "triton_python_backend_stub"

    def command(self, repo: Path, *options: str) -> list[str]:
        """What starts the server."""
        backends = str(self.backend.parent)
        return [
            str(self._triton / "bin" / "tritonserver"),
            *("--model-repository", str(repo), "--backend-directory", backends, "--exit-timeout-secs", "10"),
            *options,
        ]

    def variables(self) -> dict[str, str]:
        """The process's environment: the stub finds its Python through PATH, and that Python's library."""
        path = f"{self.environment / 'bin'}:{os.environ.get('PATH', os.defpath)}"
        return {**os.environ, "PATH": path, "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))}


@dataclass(frozen=True)
class Addresses:
    """Where a running server listens."""

    http: str
    grpc: str


def install(home: Path = HOME) -> Installation:
    """Installs once; later calls find it there. Raises SystemExit with a line where this Python will not do."""
    _check_library()
    recipe = "\n".join([WHEEL, NUMPY, sys.version, sys.prefix, str(ROOT)])
    installed, stamp = Installation(home), home / "installed-from"
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{home}.lock"):
        if stamp.is_file() and stamp.read_text() == recipe:
            return installed
        shutil.rmtree(home, ignore_errors=True)
        _pip_install(WHEEL, home / "wheel")
        # The server looks for the stub here; from here, too, it finds the wheel's libraries.
        shutil.copy2(installed.stub, installed.backend)
        _make_environment(installed.environment)
        stamp.write_text(recipe)
    return installed


@contextmanager
def serving(repo: Path, log: Path) -> Iterator[Addresses]:
    """A server that is ready, on free ports of loopback; stopped at the end. Raises SystemExit with its log's end."""
    installed = install()
    http, grpc, metrics = _free_ports(3)
    places = {"http": http, "grpc": grpc, "metrics": metrics}
    options = [f"--{name}-{key}={value}" for name, port in places.items() for key, value in _place(port)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            installed.command(repo, *options),
            env=installed.variables(),
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _await_ready(process, f"http://127.0.0.1:{http}/v2/health/ready", log)
        yield Addresses(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}")
    finally:
        _stop(process)


def _place(port: int) -> tuple[tuple[str, str], ...]:
    return ("address", "127.0.0.1"), ("port", str(port))


def _check_library() -> None:
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    beside = Path(sysconfig.get_config_var("LIBDIR"), f"lib{python}.so.1.0")
    if not beside.exists() and find_library(python) is None:
        raise SystemExit(
            f"Triton runs models in lib{python}.so.1.0, which is not there; Debian: apt install lib{python}"
        )


def _pip_install(requirement: str, target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "--target", str(target), requirement], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{requirement} could not be installed:\n{done.stderr}")


def _make_environment(home: Path) -> None:
    venv.create(home, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    _pip_install(NUMPY, packages)
    behind = [ROOT / "runtime", ROOT / "engines", sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (packages / "this_checkout.pth").write_text("".join(f"{place}\n" for place in behind))


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _await_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(
        f"tritonserver did not become ready; its log {log} ends:\n{log.read_text(errors='replace')[-4000:]}"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Lets the server end by itself; kills it and its stubs if it does not."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> None:
    """Becomes the server."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    installed = install()
    command = installed.command(Path(sys.argv[1]), *sys.argv[2:])
    os.execve(command[0], command, installed.variables())


if __name__ == "__main__":
    main()
