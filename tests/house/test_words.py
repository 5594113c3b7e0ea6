"""One word a meaning, and the field's own where there is one: words that were given up do not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTEAD = {
    "untold": "uncond",
    "painters?": "executor",
    "islands?": "fp32 block list",
    "shipments?": "archive",
    "outdone": "dominated",
    "remed(y|ies)": "hint",
    "smoothing|feather": "nothing: a region has hard edges",
}
WORDS = re.compile("|".join(rf"(?<![A-Za-z])({word})(?![A-Za-z])" for word in INSTEAD), re.IGNORECASE)
ROOMS = ("hsexport", "runtime", "docs")


def files() -> list[Path]:
    """All code and prose of the rooms."""
    found = [file for room in ROOMS for kind in ("*.py", "*.md", "*.h", "*.cpp") for file in (ROOT / room).rglob(kind)]
    return [ROOT / "README.md", *sorted(found)]


def test_a_word_that_was_given_up_is_found():
    assert [match[0] for match in WORDS.finditer("the untold rows, not_outdone, Remedies; an islander")] == [
        "untold",
        "outdone",
        "Remedies",
    ]


@pytest.mark.parametrize("file", files(), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_word_that_was_given_up(file):
    assert sorted({match[0] for match in WORDS.finditer(file.read_text(encoding="utf-8"))}) == []
