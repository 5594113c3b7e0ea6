"""The judge that ships beside the demo pair, on the pictures that it is there to judge."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from onnxruntime import InferenceSession

from demo_training.corpus import FONT, load_corpus
from hsengines.ort.session import session_options
from judge_training.__main__ import spoiled
from judge_training.network import FEATURES
from judge_training.write import judged

DEMO = Path(str(files("hsexport"))) / "demo"
EVERY = 6  # of the names: enough to notice another order or another network


@pytest.fixture(scope="module")
def session():
    path = DEMO / "judge" / "judge.onnx"
    return InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def reference():
    with np.load(DEMO / "judge" / "reference.npz") as kept:
        return kept["mean"], kept["covariance"]


@pytest.fixture(scope="module")
def pictures():
    """Some real pictures, in the order of captions.json."""
    pytest.importorskip("emoji")
    if not FONT.exists():
        pytest.skip(f"{FONT} is missing")
    corpus = load_corpus()
    assert corpus.captions == json.loads((DEMO / "captions.json").read_text(encoding="utf-8"))
    return corpus.pictures[::EVERY]


def test_the_reference_is_a_distribution_of_its_features(reference):
    mean, covariance = reference
    assert mean.shape == (FEATURES,) and covariance.shape == (FEATURES, FEATURES)
    np.testing.assert_allclose(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > 0


@pytest.mark.parametrize(("state", "least"), [("clean", 0.97), ("blurred and noisy", 0.9)])
def test_it_names_pictures_in_the_order_of_the_captions(session, pictures, state, least):
    shown = pictures if state == "clean" else spoiled(pictures, seed=1)
    _, logits = judged(session, shown)
    assert logits.shape[1] == len(json.loads((DEMO / "captions.json").read_text(encoding="utf-8")))
    assert (logits.argmax(axis=1) == np.arange(len(shown)) * EVERY).mean() > least


def test_a_sample_of_real_pictures_lies_in_the_middle_of_the_reference(session, pictures, reference):
    mean, covariance = reference
    features, _ = judged(session, pictures)
    assert (np.abs(features.mean(axis=0) - mean) < 0.5 * np.sqrt(np.diag(covariance))).all()
