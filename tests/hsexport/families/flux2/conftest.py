"""A tiny FLUX.2 pair and a bundle of it, once a session."""

import pytest

TEXT = 80
"""Tokens of a prompt, in place of 512."""


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
    from hsexport.build.build import build
    from hsexport.build.request import BuildRequest
    from hsexport.progress import Reporter

    def built(large, small, **asked):
        out = tmp_path_factory.mktemp("flux2") / "bundle"
        options = {
            "light": (1, 1),
            "size": (32, 32),
            "max_size": (80, 80),
            "max_sequence_length": TEXT,
            "references": 2,
        } | asked
        build(BuildRequest(str(large), small and str(small), out, flux2_store, **options), Reporter())
        return out

    return built


@pytest.fixture(scope="session")
def flux2_bundle(flux2_built, flux2_dirs):
    """For ort-cpu."""
    return flux2_built(*flux2_dirs)
