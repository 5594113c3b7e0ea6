"""A tiny FLUX.2 pair, its large transformer in other layouts, and a bundle of it."""

import pytest
from quantised_files import state_of
from single_file_twin import black_forest_state, write_twin
from tiny_flux2 import TEXT_LENGTH, make_flux2_pair, make_flux2_pipeline


@pytest.fixture(scope="session")
def flux2_dirs(tmp_path_factory):
    """Folders (large, small): another width and another text encoder each, drawn with guidance."""
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
            "max_sequence_length": TEXT_LENGTH,
            "references": 2,
        } | asked
        build(BuildRequest(str(large), small and str(small), out, flux2_store, **options), Reporter())
        return out

    return built


@pytest.fixture(scope="session")
def flux2_bundle(flux2_built, flux2_dirs):
    """For ort-cpu."""
    return flux2_built(*flux2_dirs)


@pytest.fixture(scope="package")
def folder(flux2_dirs):
    """Large's transformer as diffusers writes it."""
    return flux2_dirs[0] / "transformer"


@pytest.fixture(scope="package")
def twin(folder, tmp_path_factory):
    """The same in a single file, by Black Forest Labs' names."""
    return write_twin(
        folder, tmp_path_factory.mktemp("twin") / "klein.safetensors", prefix="", names=black_forest_state
    )


@pytest.fixture(scope="package")
def wide(tmp_path_factory):
    """A transformer whose widths are whole blocks of 32 numbers, and some of 256."""
    return make_flux2_pipeline(tmp_path_factory.mktemp("wide") / "large", heads=8, text=32) / "transformer"


@pytest.fixture(scope="package")
def state(wide):
    """Its tensors by Black Forest Labs' names."""
    return black_forest_state(state_of(wide))
