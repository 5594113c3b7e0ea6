"""What the model makes of Triton's inputs, without a server: the backend's own module is stood in for."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from served import file_of

from hsruntime.bundle.reader import open_bundle
from hsruntime.options import PictureOptions
from hsruntime.request import RequestError

PICTURE = file_of(np.random.default_rng(2).integers(0, 256, (16, 16, 3), np.uint8))
MASK = file_of(np.full((8, 32), 255, np.uint8))


@pytest.fixture
def model(monkeypatch):
    """The module, and what it logs."""
    logged = []
    backend = SimpleNamespace(
        get_input_tensor_by_name=lambda asked, name: asked.get(name), Logger=SimpleNamespace(log_warn=logged.append)
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    monkeypatch.delitem(sys.modules, "hsexport.deploy.triton.model", raising=False)
    from hsexport.deploy.triton import model

    yield model, logged
    sys.modules.pop("hsexport.deploy.triton.model", None)


def sent(**values):
    """Inputs as Triton hands them on: (B, 1), texts and files as bytes."""

    def tensor(rows):
        kind = object if isinstance(rows[0], bytes) else None
        return SimpleNamespace(as_numpy=lambda: np.array([[row] for row in rows], kind))

    return {name: tensor(rows) for name, rows in values.items()}


def test_files_reach_the_request_as_they_are(model, tiny_bundle):
    model, logged = model
    manifest = open_bundle(tiny_bundle).manifest
    asked = sent(
        PROMPT=[b"a", b"b"], IMAGE=[PICTURE] * 2, MASK=[MASK] * 2, STRENGTH=[0.5] * 2, REGION_MASK=[PICTURE] * 2
    )
    found = model.request_of(manifest, asked)
    files = {"image": PICTURE, "mask": MASK, "region_mask": PICTURE}
    with pytest.warns(UserWarning):
        expected = PictureOptions(prompt=["a", "b"], strength=0.5, **files).completed(manifest)
    assert found.original.digest == expected.original.digest and str(found.schedule) == str(expected.schedule)
    assert found.pictures == 2
    assert "stretched over it" in logged[0] and "marks the whole picture" in logged[1]


def test_files_that_differ_within_a_request_are_not_told_byte_by_byte(model, tiny_bundle):
    model, _ = model
    asked = sent(PROMPT=[b"a", b"b"], IMAGE=[PICTURE, MASK])
    with pytest.raises(RequestError, match="IMAGE differs within one request; send one") as caught:
        model.request_of(open_bundle(tiny_bundle).manifest, asked)
    assert len(str(caught.value)) < 100
