"""Builds the C library's programs as a user does, with the real compilers."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "scripts" / "examples" / "cpp"
PACKAGES = {"cmake": "cmake", "g++": "g++", "gcc": "gcc", "pkg-config": "pkg-config", "valgrind": "valgrind"}
SOURCES = os.pathsep.join(str(ROOT / part) for part in ("", "runtime", "engines"))


def run(*command: str | Path, status: int = 0, seconds: int = 300, **environment: str) -> subprocess.CompletedProcess:
    """The command as it ended; fails the test with all it said if that is not as expected, or its program missing."""
    program = str(command[0])
    if not shutil.which(program):
        pytest.fail(f"{program} is missing; on Debian, apt-get install {PACKAGES.get(program, program)} libpng-dev")
    everything = {**os.environ, "PYTHONPATH": SOURCES, **environment}
    words = [str(word) for word in command]
    done = subprocess.run(words, env=everything, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == status, f"{words} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done


@dataclass(frozen=True)
class Library:
    """What `hsexport embed --json` told."""

    cflags: list[str]
    libs: list[str]
    cmake_dir: str
    pkg_config_dir: str

    @property
    def file(self) -> Path:
        return Path(self.pkg_config_dir).parent / "libhsruntime.so"


def built_service(library: Library, folder: Path, *options: str) -> Path:
    """The example, through find_package."""
    run("cmake", "-S", EXAMPLE, "-B", folder, f"-Dhsruntime_DIR={library.cmake_dir}", *options)
    run("cmake", "--build", folder)
    return folder / "service"
