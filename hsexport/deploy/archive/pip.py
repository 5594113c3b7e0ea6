"""pip, as a process: it offers no other interface."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec

from hsengines.errors import HSError


class PipError(HSError):
    """pip could not do what it was asked."""


def pip(command: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
    """Runs `pip COMMAND`, with more in its environment. Raises PipError with pip's own last words."""
    if find_spec("pip") is None:
        raise PipError("this Python has no pip", "python -m ensurepip")
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, "--quiet", "--no-input", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")] or [
            f"code {done.returncode}"
        ]
        raise PipError(f"pip {command} failed: {errors[-1].removeprefix('ERROR: ')}", "see to it with pip itself")
