"""The parts beside a transformer, each whole in itself: read by file names and headers alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from .documents import setting_of
from .errors import PairError
from .shards import AGAIN, read_headers

# A tensor that only this kind of part has, under any of the names it is saved by.
TELLING = {
    "vae": ("decoder.conv_in.weight",),
    "text_encoder": ("text_projection.weight",),
    "text_encoder_2": ("text_projection.weight",),
    "text_encoder_3": ("shared.weight", "encoder.embed_tokens.weight"),
}
CLIP_LAYERS = ("num_hidden_layers", re.compile(r"(?:text_model\.)?encoder\.layers\.(\d+)\..+"))
T5_LAYERS = ("num_layers", re.compile(r"encoder\.block\.(\d+)\..+"))
LAYERS = {"text_encoder": CLIP_LAYERS, "text_encoder_2": CLIP_LAYERS, "text_encoder_3": T5_LAYERS}
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))


def check_parts_whole(parts: Mapping[str, Path]) -> None:
    """Refuses a VAE, text encoder or tokenizer whose files are cut, missing or another model's."""
    for name, part in parts.items():
        if name in TELLING:
            check_weights_whole(name, part)
        elif name.startswith("tokenizer"):
            check_tokenizer_there(part)


def check_weights_whole(name: str, part: Path) -> None:
    """Refuses truncated files, absent shards, and weights that are not the kind and depth `name` should have."""
    headers = read_headers(part)
    if not any(telling in headers for telling in TELLING[name]):
        raise PairError(f"{part} is a broken checkpoint: it lacks {' or '.join(TELLING[name])}", AGAIN)
    if name not in LAYERS:
        return
    setting, pattern = LAYERS[name]
    said = setting_of(part, setting)
    held = {int(match[1]) for match in filter(None, map(pattern.fullmatch, headers))}
    if held != set(range(said)):
        raise PairError(
            f"{part} is a broken checkpoint: by its config.json ({setting}) it has {said} layers, "
            f"in its files there are {len(held)}",
            "config and weights come from different models; download or save it again",
        )


def check_tokenizer_there(tokenizer: Path) -> None:
    """Refuses a folder without a vocabulary: transformers would put an empty one in its place."""
    if not any(all((tokenizer / name).is_file() for name in names) for names in TOKENIZER_FILES):
        expected = ", ".join(" with ".join(names) for names in TOKENIZER_FILES)
        raise PairError(f"{tokenizer} holds no vocabulary, expected one of {expected}", AGAIN)
