"""The command as users run it, in a process of its own, pairs of real size without a number in them, a bundle of a tiny
FLUX.2 pair.
"""

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


@pytest.fixture(scope="session")
def flux2_dirs(tmp_path_factory):
    """Folders (large, small): another width and another text encoder each, drawn with guidance."""
    from tiny_flux2 import make_flux2_pair

    return make_flux2_pair(tmp_path_factory.mktemp("flux2_pair"))


@pytest.fixture(scope="session")
def flux2_store(tmp_path_factory):
    """Where every bundle of the pair's engines comes from."""
    return tmp_path_factory.mktemp("flux2_store")


@pytest.fixture(scope="session")
def flux2_built(flux2_store, tmp_path_factory):
    """Builds a bundle of two folders, 32x32 pixels of 8x8 tokens by default, sides from 16 to 80,
    after two others at most.
    """
    from tiny_flux2 import ASKED

    from hsexport.build.build import build
    from hsexport.build.request import BuildRequest
    from hsexport.progress import Reporter

    def built(large, small, **asked):
        out = tmp_path_factory.mktemp("flux2") / "bundle"
        build(BuildRequest(str(large), small and str(small), out, flux2_store, **{**ASKED, **asked}), Reporter())
        return out

    return built


@pytest.fixture(scope="session")
def flux2_bundle(flux2_built, flux2_dirs):
    """For ort-cpu."""
    return flux2_built(*flux2_dirs)
