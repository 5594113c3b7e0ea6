"""Runs the command as users do: a process of its own."""

import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def hsexport():
    """Call it with arguments of the command; returns the finished process with text output."""

    def call(*arguments, timeout=240, env=None, **options):
        command = [sys.executable, "-m", "hsexport.cli.main", *map(str, arguments)]
        environment = {**os.environ, **(env or {})}
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, **options)

    return call
