"""Text embeddings stand in for prompts."""

from __future__ import annotations

import numpy as np
import pytest

from hsruntime import Session, TextEmbeddings
from hsruntime.batching import kind_of
from hsruntime.loop.flow import tokens_from_latents
from hsruntime.options import PictureOptions
from hsruntime.request import RequestError


@pytest.fixture(scope="module")
def session(tiny_bundle):
    with Session.open(tiny_bundle, hashes=False) as session:
        yield session


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_embeddings_of_prompts_make_their_pictures(session, guidance):
    prompts, negative = ["red", "green"], "blue" if guidance > 1 else None
    embeddings = session.encode(prompts, negative_prompt=negative)
    assert embeddings.rows == (4 if guidance > 1 else 2)
    found = session.generate(embeddings=embeddings, seed=3, guidance_scale=guidance)
    expected = session.generate(prompts, negative_prompt=negative or "", seed=3, guidance_scale=guidance)
    np.testing.assert_array_equal(found.images, expected.images)


def test_encoders_opened_on_demand_give_the_same(session, tiny_bundle):
    expected = session.encode("red", negative_prompt="")
    with Session.open(tiny_bundle, hashes=False, text_on_demand=True) as sparing:
        found = sparing.encode("red", negative_prompt="")
        picture = sparing.generate(embeddings=found, guidance_scale=3.0)
    np.testing.assert_array_equal(found.text, expected.text)
    np.testing.assert_array_equal(found.pooled, expected.pooled)
    np.testing.assert_array_equal(picture.images, session.generate("red", guidance_scale=3.0).images)


def test_embeddings_are_taken_in_the_row_s_order(session):
    there = session.encode("red", negative_prompt="green")
    back = session.encode("green", negative_prompt="red")
    np.testing.assert_array_equal(there.text, back.text[::-1])
    assert not np.array_equal(there.text[0], there.text[1])


def test_latents_are_what_the_decoder_saw(session):
    (painted,) = (session.generate("red", schedule="small:2"),)
    executor = next(reversed(session._executors._kept.values()))
    tokens = executor.loop.picture.read()
    np.testing.assert_array_equal(
        tokens_from_latents(painted.latents, session.manifest.facts.latent.patch_size), tokens
    )
    assert painted.latents.dtype == np.float32


def wrong(session, **changes):
    embeddings = session.encode("red", negative_prompt="")
    return TextEmbeddings(**({"text": embeddings.text, "pooled": embeddings.pooled} | changes))


def test_wrong_embeddings_are_told(session):
    right = wrong(session)
    nans = np.full_like(right.text, np.nan)
    cases = [
        (wrong(session, text=right.text[:, :-1]), r"embeddings' text is float32\(2, \d+, \d+\), expected float32"),
        (wrong(session, text=right.text.astype(np.float64)), r"embeddings' text is float64"),
        (wrong(session, pooled=right.pooled[:1]), r"embeddings' pooled is float32\(1, \d+\), expected float32\(2,"),
        (wrong(session, text=nans), "embeddings' text holds numbers that are not finite"),
        (
            TextEmbeddings(**{n: a[:1] for n, a in right.items()}),
            "1 rows, expected two for each picture under guidance",
        ),
    ]
    for embeddings, words in cases:
        with pytest.raises(RequestError, match=words):
            session.generate(embeddings=embeddings, guidance_scale=3.0)


def test_prompts_beside_embeddings_or_neither_are_refused(session):
    with pytest.raises(RequestError, match="prompts beside embeddings"):
        session.generate("red", embeddings=wrong(session))
    with pytest.raises(RequestError, match="neither a prompt nor embeddings"):
        session.generate()


def test_requests_with_embeddings_run_alone(session):
    assert kind_of(PictureOptions(guidance_scale=3.0).completed(session.manifest, embeddings=wrong(session))) is None
