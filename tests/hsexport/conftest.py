"""The command as users run it, in a process of its own, and a pair of real size without a number in it."""

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
    """Networks of the tiny bundle by name."""
    from hsexport.build.recipe import recipe_for
    from hsexport.build.request import BuildRequest

    large, small = map(str, tiny_pair_dirs)
    nowhere = tmp_path_factory.mktemp("nowhere")
    request = BuildRequest(large, small, nowhere / "bundle", nowhere / "cache", light=(1, 1))
    return {network.name: network for network in recipe_for(request).networks()}


@pytest.fixture(scope="session")
def sd35_dirs(hollow_pair, tmp_path_factory):
    """SD3.5-Large with all text encoders, and SD3.5-Medium, in bf16: headers, and files of holes behind them."""
    return hollow_pair(tmp_path_factory.mktemp("sd35"), "sd3")


@pytest.fixture(scope="session")
def klein_dirs(hollow_pair, tmp_path_factory):
    """FLUX.2 klein-base-9B and -4B with their text encoders, in the same way."""
    return hollow_pair(tmp_path_factory.mktemp("klein"), "flux2")


@pytest.fixture(scope="session")
def hollow_pair():
    """Call it with a folder and a family: large and small of the family's first two transformers."""
    import torch

    from hsexport.checkpoints.previews import write_hollow
    from random_pairs.families import FAMILIES
    from random_pairs.pairs import pair_files, write_pair
    from random_pairs.weights import head_of

    def written(directory, family, *, layers=None, tiny_text=False):
        row = FAMILIES[family]
        shape = row.pair(*row.transformers[:2], tiny_text=tiny_text).cut(layers)
        files = pair_files(directory / "pair", shape, torch.bfloat16)
        files.root.mkdir()
        (files.root / "shape.json").write_text(files.made_from)
        for part in files.parts:
            part.folder.mkdir(parents=True)
            for shard in part.shards:
                header = head_of({name: part.shapes[name] for name in shard.names}, part.dtype)
                write_hollow(shard.file, header, shard.size_bytes)
        return write_pair(files, lambda _: None)  # what is there, it keeps

    return written
