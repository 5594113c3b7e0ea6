"""FLUX.2 with quantised weights and in half precision, on the backends that run here."""

import numpy as np
import pytest
from tiny_flux2 import make_flux2_pair

from hsengines.build import build_options
from hsruntime import Session

pytestmark = pytest.mark.slow  # a pair of its own, wide enough for blocks of 32 weights


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    return make_flux2_pair(tmp_path_factory.mktemp("wide_flux2"), axes=(8, 8, 8, 8), text=64)


@pytest.fixture(scope="module")
def exact(wide, flux2_built):
    """Pictures of the unquantised bundle."""
    with Session.open(flux2_built(*wide)) as session:
        return [session.generate("a pear", seed=seed).image.astype(int) for seed in range(3)]


@pytest.mark.parametrize(
    ("backend", "weights", "kind", "bound"),
    [
        ("openvino", "int8", "int8", 6),
        ("ort-cpu", "text=int8,large=int4", "int4", 40),
    ],
)
def test_pictures_stay_near_and_every_product_is_stored_as_asked(
    wide, exact, flux2_built, backend, weights, kind, bound
):
    bundle = flux2_built(*wide, backend=backend, options=build_options(backend, weights=weights))
    with Session.open(bundle) as session:
        engines = session.manifest.engines
        large, text = engines["large"], engines["text_encoder"]
        assert (large.weight_format, text.weight_format) == (kind, "int8" if "text=" in weights else kind)
        assert large.products[kind] > 0 and large.products.get("unquantized", 0) <= 4
        assert max(large.parity.blocks.values()) < 0.5
        found = [session.generate("a pear", seed=seed).image.astype(int) for seed in range(3)]
    off = [np.abs(a - b).mean() for a, b in zip(found, exact, strict=True)]
    assert max(off) < bound, off
