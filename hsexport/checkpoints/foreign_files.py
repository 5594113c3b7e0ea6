"""Files that users take for a checkpoint of safetensors, refused by what they are."""

from __future__ import annotations

from pathlib import Path

from hsexport.checkpoints.errors import PairError

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
ORIGINAL = "quantised checkpoints are not read; give the original in bf16 or fp16"


def check_is_safetensors(file: Path) -> None:
    """Refuses GGUF files and pickles by name, and by what they begin with."""
    with file.open("rb") as stream:
        start = stream.read(4)
    if file.suffix == ".gguf" or start == b"GGUF":
        raise PairError(f"{file} is a GGUF file, expected safetensors", ORIGINAL)
    if file.suffix in PICKLES or start == b"PK\x03\x04":
        raise PairError(
            f"{file} is a pickle, expected safetensors; pickles are not read",
            "give the safetensors file, or convert it where you trust its maker",
        )
