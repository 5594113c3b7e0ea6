"""What diffusers and transformers read of a checkpoint, every fault of theirs told by folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.shards import AGAIN

NAMES_SHOWN = 3


def load_tokenizer(folder: Path) -> Any:
    """Transformers' own tokenizer: it alone knows all the layouts a checkpoint may bring."""
    from transformers import AutoTokenizer

    with told_by_folder(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise PairError(
            f"{folder} holds a {type(tokenizer).__name__}, which cannot be written as a tokenizer.json",
            "a bundle takes tokenizers that the tokenizers library runs",
        )
    return tokenizer


@contextmanager
def told_by_folder(folder: Path) -> Iterator[None]:
    """Turns whatever a library says of the files in `folder` into a PairError; missing packages and disks pass."""
    try:
        yield
    except (PairError, ImportError, MemoryError):
        raise
    except Exception as err:  # tokenizers raises Exception itself, safetensors a direct child
        if isinstance(err, OSError) and err.errno is not None:
            raise
        reason = next(iter(str(err).strip().splitlines()), type(err).__name__)
        raise PairError(f"{folder} cannot be loaded: {reason}", AGAIN) from err


def in_few_words(names: list[str]) -> str:
    """`a, b, c and 4 more`."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
