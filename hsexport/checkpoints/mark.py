"""A mark by which a transformer is known again, whatever path and layout it was read from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from hsexport.checkpoints.shards import TensorHeader, first_bytes

MARK_PREFIX = "local:"
LOOKED_AT_BYTES = 4096  # of each tensor: a thousand tensors take 4 MB, all of them 16 GB


def mark_of(tensors: Mapping[str, TensorHeader]) -> str:
    """`local:` and 16 hexadecimal digits, from every tensor's name, type, shape and first bytes.

    Tells one model from another and a model from its fine-tunes; it is no checksum.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        header = tensors[name]
        digest.update(json.dumps([name, header.dtype, header.shape]).encode() + b"\n")
        digest.update(first_bytes(header, LOOKED_AT_BYTES))
    return MARK_PREFIX + digest.hexdigest()[:16]


def is_mark(source: str) -> bool:
    """Whether a bundle's `source` stands for a local path."""
    return source.startswith(MARK_PREFIX)
