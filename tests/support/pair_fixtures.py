"""Tiny pipelines written once a session, copies of them to break, and a way to break them."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_pair import make_pair, make_pipeline


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The tiny pair: a whole pipeline, and a transformer alone."""
    return make_pair(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_whole(tiny, tmp_path_factory):
    """A whole pipeline around the small transformer, with parts of its own that equal large's."""
    directory = tmp_path_factory.mktemp("whole") / "small"
    return make_pipeline(directory, layers=2, dual_layers=(0,), seed=1)


@pytest.fixture
def large(tiny, tmp_path):
    """A copy of the tiny pair's large member."""
    return Path(shutil.copytree(tiny[0], tmp_path / "large"))


@pytest.fixture
def small(tiny, tmp_path):
    """A copy of the tiny pair's small member."""
    return Path(shutil.copytree(tiny[1], tmp_path / "small"))


@pytest.fixture
def whole(tiny_whole, tmp_path):
    """A copy of the small member's whole pipeline."""
    return Path(shutil.copytree(tiny_whole, tmp_path / "whole"))


@pytest.fixture
def edit():
    """Sets keys of a JSON file; `...` removes one."""

    def edit_document(path, **changes):
        document = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in document.items() if value is not ...}))

    return edit_document


@pytest.fixture
def edit_weights():
    """Rewrites a component's single safetensors file through a function of its tensors."""

    def edit_file(component, change):
        (file,) = component.glob("*.safetensors")
        tensors = load_file(file)
        save_file(change(tensors) or tensors, file, metadata={"format": "pt"})

    return edit_file
