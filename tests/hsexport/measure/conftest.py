import shutil
from pathlib import Path

import pytest

from hsruntime.bundle.manifest import manifest_from_bytes

GOLDEN = Path(__file__).parents[2] / "runtime" / "bundle" / "golden_bundle" / "manifest.json"


@pytest.fixture
def manifest():
    """A bundle's manifest, whose small costs a seventh of its large."""
    return manifest_from_bytes(GOLDEN.read_bytes())


@pytest.fixture
def own_bundle(tiny_bundle, tmp_path):
    """A copy of the tiny bundle that may be written."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "own.bundle"))
