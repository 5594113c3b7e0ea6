"""Programs that some tests run; `scripts/test` installs them where it may."""

import os
import shutil

import pytest

PACKAGES = {name: name for name in ("chromium", "cmake", "g++", "pkg-config", "strace", "valgrind")}


def needs(*programs):
    """Skips where one is missing, with what to install; where everything is to be run (.ci/run), fails instead."""
    missing = [PACKAGES[program] for program in programs if not shutil.which(program)]
    if missing:
        told = f"on Debian and Ubuntu: apt-get install {' '.join(missing)}"
        pytest.fail(told) if os.environ.get("HSEXPORT_TEST_EVERYTHING") else pytest.skip(told)
