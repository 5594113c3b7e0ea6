"""A digest of the code that shapes a product: editing it must not leave stale products behind."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

SHAPING = {
    "export": (
        *("families/**/*.py", "networks/*.py", "onnx/*.py", "checkpoints/weights/*.py", "build/stages/export.py"),
        *("onnx/passes/graph_pass.py", "onnx/passes/name*.py", "onnx/passes/strip_metadata.py"),
    ),
    # The rooms of the weights too: they are computed and written in this stage.
    "optimise": (
        *("build/stages/optimise.py", "onnx/passes/*.py", "onnx/lint/*.py", "onnx/graph_files.py", "onnx/weights.py"),
        *("networks/network.py", "checkpoints/weights/*.py", "families/**/*weights.py", "families/**/fp32_blocks.py"),
    ),
    "verify": ("onnx/passes/*.py", "onnx/graph_files.py", "build/verify/*.py", "build/stages/verify.py"),
}
"""A stage and the source that decides what comes out of it."""


@cache
def source_digest(stage: str) -> str:
    """sha256 over the source of a stage in `SHAPING`."""
    here = Path(__file__).parents[1]
    files = sorted({file for pattern in SHAPING[stage] for file in here.glob(pattern)})
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(here)}\0".encode() + file.read_bytes())
    return digest.hexdigest()
