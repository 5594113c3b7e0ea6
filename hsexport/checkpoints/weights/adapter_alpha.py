"""How strongly a LoRA was trained to act: alpha over rank, wherever its writer put alpha."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsexport.checkpoints.documents import number, read_document
from hsexport.checkpoints.errors import PairError
from hsexport.checkpoints.shards import AGAIN, read_header
from hsexport.checkpoints.weights.adapter_keys import Matrices
from hsexport.checkpoints.weights.weight import Stored

DIFFUSERS_SETTINGS = "lora_adapter_metadata"  # in the header of a file that save_lora_weights wrote
PEFT_SETTINGS = "adapter_config.json"  # beside a file that PEFT's save_pretrained wrote


@dataclass(frozen=True)
class Alphas:
    """What PEFT's LoraConfig of a file says of its scale; `alpha` None means each module's rank."""

    alpha: float | None = None
    patterns: tuple[tuple[str, float], ...] = ()
    """Regular expressions over the end of a module's name, and the alpha there."""
    by_root: bool = False
    """rsLoRA: over the rank's square root."""

    def factor(self, found: Matrices) -> float:
        """What the product up @ down is multiplied by; 1 where nobody wrote an alpha, as in diffusers."""
        if found.alpha is not None:
            return float(Stored(found.alpha).read().reshape(-1)[0]) / found.rank
        default = found.rank if self.alpha is None else self.alpha
        matching = (alpha for pattern, alpha in self.patterns if re.match(rf"(.*\.)?({pattern})$", found.module))
        return next(matching, default) / (math.sqrt(found.rank) if self.by_root else found.rank)


def alphas_of(file: Path) -> Alphas:
    """From the file's own header, or for PEFT's files from the configuration beside it."""
    header, _ = read_header(file)
    written = (header.get("__metadata__") or {}).get(DIFFUSERS_SETTINGS)
    if written is not None:
        return _alphas_from(_settings_in(file, written), file)
    if any(name.startswith("base_model.model.") for name in header):
        return _alphas_from(read_document(file.parent / PEFT_SETTINGS), file.parent / PEFT_SETTINGS)
    return Alphas()


def _settings_in(file: Path, written: str) -> dict[str, Any]:
    try:
        return {key.removeprefix("transformer."): value for key, value in json.loads(written).items()}
    except (ValueError, AttributeError, TypeError) as err:
        raise PairError(f"{file} is a broken LoRA: its {DIFFUSERS_SETTINGS} holds no settings", AGAIN) from err


def _alphas_from(settings: dict[str, Any], file: Path) -> Alphas:
    patterns = settings.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise PairError(f"{file} has alpha_pattern {patterns!r}, expected numbers by module", AGAIN)
    return Alphas(
        alpha=number(settings, "lora_alpha", file) if "lora_alpha" in settings else None,
        patterns=tuple((pattern, number(patterns, pattern, file)) for pattern in patterns),
        by_root=bool(settings.get("use_rslora")),
    )
