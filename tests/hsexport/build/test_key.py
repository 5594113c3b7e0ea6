import hashlib
from dataclasses import replace

import pytest

from hsexport.build.store import BuildKey
from hsruntime.bundle.reader import sha256_of

KEY = BuildKey("engine", "large", {"builder": "onnxruntime 1", "graph": "a" * 64})


def test_order_of_facts_does_not_matter():
    assert KEY.digest == replace(KEY, facts=dict(reversed(KEY.facts.items()))).digest


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, kind="onnx"),
        replace(KEY, name="small"),
        replace(KEY, facts=KEY.facts | {"builder": "onnxruntime 2"}),
        replace(KEY, facts=KEY.facts | {"precision": "fp16"}),
        replace(KEY, facts={"graph": "a" * 64}),
    ],
)
def test_every_part_decides(other):
    assert other.digest != KEY.digest


def test_schema_version_decides(monkeypatch):
    before = KEY.digest
    monkeypatch.setattr("hsexport.build.store.KEY_SCHEMA", 10**6)
    assert KEY.digest != before


def test_digest_is_pinned():
    """A change of what the digest covers must come with a new KEY_SCHEMA, or stale products would be found."""
    assert BuildKey("k", "n", {"a": "1"}).digest == (
        hashlib.sha256(b'{"facts": {"a": "1"}, "kind": "k", "name": "n", "schema": 2}').hexdigest()
    )


@pytest.mark.parametrize(
    ("earlier", "words"),
    [
        (KEY.facts, ""),
        (KEY.facts | {"builder": "onnxruntime 0"}, "builder onnxruntime 0 -> onnxruntime 1"),
        (KEY.facts | {"graph": "b" * 64}, "graph bbbbbbbb -> aaaaaaaa"),
        ({"graph": "a" * 64}, "builder nothing -> onnxruntime 1"),
        (KEY.facts | {"profiles": "x"}, "profiles x -> nothing"),
        ({}, "builder nothing -> onnxruntime 1, graph nothing -> aaaaaaaa"),
    ],
)
def test_changes_are_told_in_words(earlier, words):
    assert KEY.changes_since(earlier) == words


def test_long_facts_are_shortened_in_words():
    assert len(KEY.changes_since(KEY.facts | {"builder": "x" * 1000})) < 100


def test_digest_of_a_file_is_the_files_sha256(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 100_000)
    assert sha256_of(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()
