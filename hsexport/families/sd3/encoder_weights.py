"""Weights of what surrounds the transformers, by the names that the wrapped modules have for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hsexport.checkpoints.shards import TensorHeader, read_headers
from hsexport.checkpoints.weights import Stored, Weights
from hsexport.families.agreement import WRITER

EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")
"""T5's one table of token embeddings, under both of the names it is saved by."""


def part_weights(folder: Path, *, prefix: str = "", kind: str = "") -> Weights:
    """All weights in a component's folder, `prefix` before each name. T5's embeddings answer to both their names."""
    headers = read_headers(folder)
    found = dict(headers)
    if kind == "t5":
        found |= _embeddings(headers)
    if kind == "clip":
        found |= {f"text_model.{name}": header for name, header in headers.items() if _is_bare(name)}
    return Weights(folder, {prefix + name: Stored(header) for name, header in found.items()}, headers)


def config_fact(document: Mapping[str, Any]) -> dict[str, str]:
    """What shapes the module, as a fact of the build key: the configuration without who wrote it."""
    shaping = {key: value for key, value in document.items() if key not in WRITER}
    return {"config": json.dumps(shaping, sort_keys=True)}


def _embeddings(headers: dict[str, TensorHeader]) -> dict[str, TensorHeader]:
    known = next((headers[name] for name in EMBEDDINGS if name in headers), None)
    return dict.fromkeys(EMBEDDINGS, known) if known else {}


def _is_bare(name: str) -> bool:
    """CLIP's text model is saved with and without its own prefix."""
    return name.startswith(("embeddings.", "encoder.", "final_layer_norm."))
