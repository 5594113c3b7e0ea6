"""Where the C library lies, as compilers ask for it, and its build where it is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import hsruntime
from hsengines.errors import HSError

PACKAGE = Path(hsruntime.__file__).parent
HEADER = Path("include") / "hsruntime.h"


@dataclass(frozen=True)
class Installed:
    """The C library, installed under one folder."""

    prefix: Path

    @property
    def is_there(self) -> bool:
        """Whether header and library lie where they should."""
        return (self.prefix / HEADER).is_file() and (self.lib / "libhsruntime.so").exists()

    @property
    def lib(self) -> Path:
        """The library's folder."""
        return self.prefix / "lib"

    @property
    def facts(self) -> dict[str, str]:
        """What `hsexport embed` tells, by the name of its option."""
        return {
            "cflags": f"-I{self.prefix / 'include'}",
            "libs": f"-L{self.lib} -lhsruntime -Wl,-rpath,{self.lib}",
            "cmake-dir": str(self.lib / "cmake" / "hsruntime"),
            "pkg-config-dir": str(self.lib / "pkgconfig"),
        }


def shipped() -> Installed:
    """As the wheel carries it. Raises HSError."""
    found = Installed(PACKAGE / "capi")
    if not found.is_there:
        raise HSError("this installation carries no libhsruntime", "build it: hsexport embed --build DIR")
    return found


def built_in(prefix: Path) -> Installed:
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
    return Installed(prefix)


def _run_cmake(*words: str) -> None:
    done = subprocess.run(["cmake", *words], capture_output=True, text=True)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise HSError("cmake failed, as it says above", "it needs a C++17 compiler; on Debian, apt-get install g++")
