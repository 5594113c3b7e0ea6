"""JSON files of a model directory, read with faults told by file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import PairError


def read_document(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; PairError when the file is missing or holds anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise PairError(f"{path} cannot be read: {err.strerror or err}", "is the model directory complete?") from err
    except ValueError as err:
        raise PairError(f"{path} is not JSON: {err}", "download or save the model again") from err
    if not isinstance(document, dict):
        raise PairError(f"{path} holds a {type(document).__name__}, expected an object of settings")
    return document
