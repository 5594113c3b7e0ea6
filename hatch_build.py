"""Puts the C library into a wheel where CMake and a C++ compiler are there; its sources always."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "runtime/capi"
TARGET = "hsruntime/capi"
PURE = "HSEXPORT_PURE_WHEEL"
"""Set: a wheel for every platform is wanted (`hsexport pack`)."""
COMPILERS = ("c++", "g++", "clang++")


class CapiHook(BuildHookInterface):
    """Editable installations get nothing, and so need no compiler."""

    _built: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds sources, and the library with a tag of this platform; it serves every Python 3 alike."""
        if self.target_name != "wheel" or version == "editable":
            return
        source = Path(self.root) / SOURCE
        build_data["force_include"][str(source)] = f"{TARGET}/source"
        if os.environ.get(PURE):
            return
        if os.name != "posix" or not shutil.which("cmake") or not self._has_compiler():
            self.app.display_warning("no CMake or no C++ compiler: this wheel carries libhsruntime as sources only")
            return
        self._built = Path(tempfile.mkdtemp(prefix="hsruntime"))
        for part in ("include", "lib"):
            build_data["force_include"][str(self._install(source, self._built) / part)] = f"{TARGET}/{part}"
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """The wheel is written; what it was made from may go."""
        if self._built:
            shutil.rmtree(self._built, ignore_errors=True)

    def _has_compiler(self) -> bool:
        return bool(os.environ.get("CXX")) or any(map(shutil.which, COMPILERS))

    def _install(self, source: Path, room: Path) -> Path:
        """Where the library lies, installed; it asks for its interpreter when it runs, for a wheel moves."""
        prefix, tree = room / "prefix", room / "build"
        options = [f"-DCMAKE_INSTALL_PREFIX={prefix}", "-DCMAKE_INSTALL_LIBDIR=lib", "-DHSRUNTIME_PYTHON="]
        for command in (["-S", source, "-B", tree, *options], ["--build", tree], ["--install", tree]):
            subprocess.run(["cmake", *map(str, command)], check=True, stdout=subprocess.DEVNULL)
        return prefix
