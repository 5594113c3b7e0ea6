"""The tiny FLUX.2 pair's large transformer in other layouts."""

import pytest
from quantised_files import state_of
from single_file_twin import black_forest_state, write_twin
from tiny_flux2 import make_flux2_pipeline


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
