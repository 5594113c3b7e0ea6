"""What some tests need of the machine: programs, which `scripts/test` installs where it may, and a CPU that can."""

import os
import shutil

import openvino
import pytest

HAS_BF16 = pytest.mark.skipif(
    "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="OpenVINO computes in bf16 on CPUs that have it alone",
)
PACKAGES = {name: name for name in ("chromium", "cmake", "g++", "pkg-config", "strace", "valgrind")}


def needs(*programs):
    """Skips where one is missing, with what to install; where everything is to be run (.ci/run), fails instead."""
    missing = [PACKAGES[program] for program in programs if not shutil.which(program)]
    if missing:
        told = f"on Debian and Ubuntu: apt-get install {' '.join(missing)}"
        pytest.fail(told) if os.environ.get("HSEXPORT_TEST_EVERYTHING") else pytest.skip(told)
