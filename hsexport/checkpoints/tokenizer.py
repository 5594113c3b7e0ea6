"""What decides the ids a tokenizer gives, read from any of the files it may be saved in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from .documents import read_document, read_text
from .errors import PairError
from .shards import AGAIN

SETTINGS = ("model_max_length", "bos_token", "eos_token", "pad_token", "unk_token")


def check_tokenizers_agree(name: str, large: Path, small: Path) -> None:
    """Refuses tokenizers that differ in a fact both directories state.

    One may be saved as vocab.json and merges.txt and the other as tokenizer.json: facts are compared, not files.
    """
    ours, theirs = tokenizer_facts(large), tokenizer_facts(small)
    for fact in filter(theirs.__contains__, ours):
        if ours[fact] != theirs[fact]:
            shown = f": {ours[fact]!r} and {theirs[fact]!r}" if fact in SETTINGS else ""
            raise PairError(
                f"{name} of large and small differ in {fact}{shown}",
                "both must read the same text: take both members from one model family",
            )


def tokenizer_facts(directory: Path) -> dict[str, Any]:
    """Vocabulary, merges and special tokens by name, as far as the directory's files state them."""
    facts: dict[str, Any] = {}
    if (directory / "tokenizer_config.json").is_file():
        settings = read_document(directory / "tokenizer_config.json")
        facts |= {key: token_text(settings[key]) for key in SETTINGS if key in settings}
    if (directory / "tokenizer.json").is_file():
        facts |= model_facts(directory / "tokenizer.json")
    if (directory / "vocab.json").is_file():
        facts["vocabulary"] = read_document(directory / "vocab.json")
    if (directory / "merges.txt").is_file():
        facts["merges"] = merges_in(read_text(directory / "merges.txt"))
    if (directory / "spiece.model").is_file():
        facts["sentencepiece model"] = hashlib.sha256((directory / "spiece.model").read_bytes()).hexdigest()
    return facts


def token_text(token: Any) -> Any:
    """A token as text: transformers saves it so, or as an object with its text under `content`."""
    return token.get("content") if isinstance(token, dict) else token


def model_facts(file: Path) -> dict[str, Any]:
    """The facts in a tokenizer.json; merges are `a b` in old files and `[a, b]` in new ones."""
    model = read_document(file).get("model")
    if not isinstance(model, dict) or not isinstance(model.get("merges", []), list):
        raise PairError(f"{file} holds no tokenizer: expected its model with a vocabulary", AGAIN)
    facts = {"vocabulary": model["vocab"]} if "vocab" in model else {}
    if "merges" in model:
        facts["merges"] = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    return facts


def merges_in(text: str) -> list[list[str]]:
    """The merges of a merges.txt, without its version line."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#version")]
    return [line.split(" ") for line in lines]
