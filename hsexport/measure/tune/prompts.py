"""Which prompts a search is measured on."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from hsexport.measure.bench.prompts import Prompt, PromptError, prompts_from_file, spread
from hsruntime.bundle.manifest import Manifest

DEMO_CAPTIONS = Path(__file__).parents[2] / "demo" / "captions.json"


def prompts_for(manifest: Manifest, file: Path | None, count: int) -> tuple[Prompt, ...]:
    """At most `count` prompts of a file, or of the demo pair's own, in an order whose beginnings are spread as well.

    Raises PromptError for a file without prompts, and where there is neither a file nor the demo pair.
    """
    if file is None and manifest.facts.large.source != "demo":
        raise PromptError("this pair brings no prompts of its own", "give --prompt-file, a text with one prompt a line")
    texts = prompts_from_file(file) if file else msgspec.json.decode(DEMO_CAPTIONS.read_bytes(), type=list[str])
    chosen = spread(texts, count)
    return tuple(chosen[i] for i in np.random.default_rng(0).permutation(len(chosen)))
