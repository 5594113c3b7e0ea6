"""The token that a tokenizer pads with, read from its files: transformers takes seconds to say the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hsexport.checkpoints.documents import read_document
from hsexport.checkpoints.errors import PairError
from hsexport.checkpoints.tokenizer import token_text


def stated_pad_id(tokenizer: Path) -> int | None:
    """The pad token's id as far as the folder's files state it beyond doubt; None leaves it to transformers."""
    try:
        settings = read_document(tokenizer / "tokenizer_config.json")
        piece = token_text(settings.get("pad_token"))
        if not isinstance(piece, str) or _is_contradicted(tokenizer, piece):
            return None
        return next((found for vocabulary in _vocabularies(tokenizer) for found in _ids(vocabulary, piece)), None)
    except PairError:
        return None


def _is_contradicted(tokenizer: Path, piece: str) -> bool:
    """Whether an older settings file beside it names another token."""
    older = tokenizer / "special_tokens_map.json"
    return older.is_file() and token_text(read_document(older).get("pad_token", piece)) != piece


def _vocabularies(tokenizer: Path) -> Iterator[Any]:
    """Added tokens first: they stand above the model's own."""
    if (tokenizer / "tokenizer.json").is_file():
        document = read_document(tokenizer / "tokenizer.json")
        yield document.get("added_tokens")
        model = document.get("model")
        yield model.get("vocab") if isinstance(model, dict) else None
    elif (tokenizer / "vocab.json").is_file():
        yield read_document(tokenizer / "vocab.json")


def _ids(vocabulary: Any, piece: str) -> Iterator[int]:
    """The id of `piece` in {piece: id}, in [[piece, score], ...] or in [{"id", "content"}, ...]."""
    if isinstance(vocabulary, dict):
        if isinstance(vocabulary.get(piece), int):
            yield vocabulary[piece]
        return
    for place, entry in enumerate(vocabulary if isinstance(vocabulary, list) else ()):
        if isinstance(entry, dict) and entry.get("content") == piece and isinstance(entry.get("id"), int):
            yield entry["id"]
        elif isinstance(entry, list) and entry[:1] == [piece]:
            yield place
