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


@pytest.fixture(scope="session")
def tiny_networks(tiny_pair_dirs, tmp_path_factory):
    """Networks of the tiny pair by name."""
    from hsexport.networks import networks_of
    from hsexport.pair import load_pair
    from hsexport.recipe import BuildRequest, recipe_from_pair

    large, small = map(str, tiny_pair_dirs)
    nowhere = tmp_path_factory.mktemp("nowhere")
    request = BuildRequest(large=large, small=small, out=nowhere / "bundle", cache=nowhere / "cache")
    return {network.name: network for network in networks_of(recipe_from_pair(load_pair(large, small), request))}
