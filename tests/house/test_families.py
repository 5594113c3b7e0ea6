"""Rule 1 of the house: a family is a folder. Its words stand there, in its tests and docs, and nowhere else."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("hsexport", "runtime", "engines")
OWN = ("hsexport/families/sd3/", "hsexport/families/flux2/", "hsexport/families/registry.py")
WORDS = re.compile(
    r"\b(sd3\w*|stable_?diffusion_?3\w*|mmdit|t5\w*|clip_?(?:encoder|text|l|g)\w*|CLIPs?|dual_?attention\w*|\w*pooled\w*"
    r"|joint_attention\w*|context_embedder|time_text_embed"
    r"|flux\w*|klein\w*|qwen\w*|single_transformer\w*|time_guidance\w*)\b|SD3|StableDiffusion3|Flux2|Qwen3",
    re.IGNORECASE,
)
ALLOWED: dict[str, str] = {
    "hsexport/measure/gpu_check/": "its scales are the demo pair, and `sd35` and `klein`, pairs of such sizes",
    "hsexport/measure/formats.py": "slices of SD3.5-Large and T5-XXL are what it measures",
    "hsexport/measure/graphs.py": "slices of SD3.5-Large are what it measures",
    "runtime/hsruntime/loop/flow.py": "its rules are those of diffusers' pipelines, which it names",
}
"""Where a family's word may stand outside its folder, and why."""


def family_words(source: str) -> set[str]:
    """Words of a family among the names, strings and comments of some Python."""
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.NAME, tokenize.STRING, tokenize.COMMENT):
            found |= {match[0] for match in WORDS.finditer(token.string) if match[0] != "clip"}
    return found


def files() -> list[Path]:
    """All Python of the packages, but the family's own."""
    found = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
    told = {file: file.relative_to(ROOT).as_posix() for file in found}
    return [file for file in found if not told[file].startswith((*OWN, *ALLOWED))]


def test_words_are_found_wherever_they_stand():
    source = "def f(pooled):\n    return 'SD3.5 has a T5'  # and dual attention in MMDiT\n"
    assert {word.lower() for word in family_words(source)} >= {"pooled", "sd3", "t5", "mmdit"}
    source = "import flux2\nx = 'Qwen3'  # klein's single_transformer_blocks, FLUX.2's\n"
    assert {word.lower() for word in family_words(source)} >= {"flux2", "qwen3", "klein", "flux"}
    assert not family_words("x = np.clip(y, 0, 1)  # a clipped picture, joint work, an influx\n")


@pytest.mark.parametrize("file", files(), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_word_of_a_family_outside_its_folder(file):
    assert not family_words(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("place", ALLOWED)
def test_every_exception_is_still_needed(place):
    under = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))
    assert any(family_words(file.read_text(encoding="utf-8")) for file in under)


def test_the_c_library_knows_no_family():
    sources = [*(ROOT / "runtime" / "capi").rglob("*.h"), *(ROOT / "runtime" / "capi").rglob("*.cpp")]
    assert not [
        (file.name, match[0]) for file in sources for match in WORDS.finditer(file.read_text()) if match[0] != "clip"
    ]
