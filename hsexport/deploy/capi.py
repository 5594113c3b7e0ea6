"""Where the C library lies, as compilers ask for it, and its build where it is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import hsruntime
from hsengines.errors import HSError

PACKAGE = Path(hsruntime.__file__).parent


def facts_of(prefix: Path) -> dict[str, str]:
    """What `hsexport embed` tells of the library that is installed there, by the name of its option."""
    lib = prefix / "lib"
    return {
        "cflags": f"-I{prefix / 'include'}",
        "libs": f"-L{lib} -lhsruntime -Wl,-rpath,{lib}",
        "cmake-dir": str(lib / "cmake" / "hsruntime"),
        "pkg-config-dir": str(lib / "pkgconfig"),
    }


def shipped() -> Path:
    """Where the wheel carries it. Raises HSError."""
    prefix = PACKAGE / "capi"
    if not ((prefix / "include" / "hsruntime.h").is_file() and (prefix / "lib" / "libhsruntime.so").exists()):
        raise HSError("this installation carries no libhsruntime", "build it: hsexport embed --build DIR")
    return prefix


def build_in(prefix: Path) -> None:
    """Builds from the sources beside the package, for this interpreter. Raises HSError."""
    sources = next((s for s in (PACKAGE / "capi" / "source", PACKAGE.parent / "capi") if s.is_dir()), None)
    if sources is None:
        raise HSError(f"the sources of libhsruntime are not beside {PACKAGE}", "install hsexport again")
    if not shutil.which("cmake"):
        raise HSError("there is no cmake", "install CMake and a C++ compiler; on Debian, apt-get install cmake g++")
    tree = prefix / "build"
    places = [f"-DCMAKE_INSTALL_PREFIX={prefix}", "-DCMAKE_INSTALL_LIBDIR=lib", f"-DHSRUNTIME_PYTHON={sys.executable}"]
    _run_cmake("-S", str(sources), "-B", str(tree), *places)
    _run_cmake("--build", str(tree))
    _run_cmake("--install", str(tree))


def _run_cmake(*words: str) -> None:
    done = subprocess.run(["cmake", *words], capture_output=True, text=True)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise HSError("cmake failed, as it says above", "it needs a C++17 compiler; on Debian, apt-get install g++")
