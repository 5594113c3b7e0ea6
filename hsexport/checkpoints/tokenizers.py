"""A tokenizer by its files: what decides the ids it gives, and the token it pads with."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from hsexport.checkpoints.documents import AGAIN, PairError, read_document, read_text, told_by_folder

FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
SETTINGS = ("model_max_length", "bos_token", "eos_token", "pad_token", "unk_token")


def check_tokenizer_there(tokenizer: Path) -> None:
    """Refuses a folder without a vocabulary: transformers would put an empty one in its place."""
    if not any(all((tokenizer / name).is_file() for name in names) for names in FILES):
        expected = ", ".join(" with ".join(names) for names in FILES)
        raise PairError(f"{tokenizer} holds no vocabulary, expected one of {expected}", AGAIN)


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
        lines = read_text(directory / "merges.txt").splitlines()
        facts["merges"] = [line.split(" ") for line in lines if line.strip() and not line.startswith("#version")]
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


def stated_pad_id(tokenizer: Path) -> int | None:
    """The pad token's id as far as the folder's files state it beyond doubt; None leaves it to transformers."""
    try:
        piece = token_text(read_document(tokenizer / "tokenizer_config.json").get("pad_token"))
        older = tokenizer / "special_tokens_map.json"
        contradicted = older.is_file() and token_text(read_document(older).get("pad_token", piece)) != piece
        return None if contradicted or not isinstance(piece, str) else _id_of(tokenizer, piece)
    except PairError:
        return None


def _id_of(tokenizer: Path, piece: str) -> int | None:
    if not (tokenizer / "tokenizer.json").is_file():
        found = read_document(tokenizer / "vocab.json").get(piece)
        return found if isinstance(found, int) else None
    from tokenizers import Tokenizer

    with told_by_folder(tokenizer):
        answer: int | None = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).token_to_id(piece)
        return answer


def load_tokenizer(folder: Path) -> Any:
    """Transformers' own tokenizer: it alone knows all the layouts a checkpoint may bring."""
    from transformers import AutoTokenizer

    with told_by_folder(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise PairError(
            f"{folder} holds a {type(tokenizer).__name__}, which cannot be written as a tokenizer.json",
            "a bundle takes tokenizers that the tokenizers library runs",
        )
    return tokenizer


def pad_id_of(tokenizer: Path, vocabulary: int) -> int:
    """The id that fills a prompt up to its full length, below the text encoder's `vocabulary`. Raises PairError."""
    found = stated_pad_id(tokenizer)
    if found is None:
        found = load_tokenizer(tokenizer).pad_token_id
    if found is None or not 0 <= found < vocabulary:
        raise PairError(
            f"{tokenizer} pads with {'no token' if found is None else f'token {found}'}, expected one of the text "
            f"encoder's {vocabulary}",
            "is it the tokenizer of that text encoder? download or save the model again",
        )
    return int(found)


MARKS = ("\ufff9", "a \ufff9 b")
"""Prompts that no template has in itself."""


def chat_template_of(tokenizer: Path, **options: Any) -> tuple[str, str]:
    """What the chat template puts before a prompt and behind it. Raises PairError for one that changes the prompt."""
    loaded = load_tokenizer(tokenizer)
    if getattr(loaded, "padding_side", "right") != "right":
        raise PairError(f"{tokenizer} pads in front of the prompt, expected behind it", AGAIN)
    with told_by_folder(tokenizer):
        messages = ([{"role": "user", "content": mark}] for mark in MARKS)
        first, second = (loaded.apply_chat_template(each, tokenize=False, **options) for each in messages)
    before, mark, behind = first.partition(MARKS[0])
    if not mark or second != before + MARKS[1] + behind:
        raise PairError(f"{tokenizer} has a chat template that does not hold the prompt as it is", AGAIN)
    return before, behind
