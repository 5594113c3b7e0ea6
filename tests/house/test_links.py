"""Links and paths of the documents lead somewhere, every page is one click from the README, steps are as they run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hsruntime.loop.program import markdown

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
OTHERS = ("README.md", "CHANGELOG.md", "runtime/BUNDLE.md", "runtime/capi/README.md", "hsexport/demo/README.md")
DOCUMENTS = [*(ROOT / name for name in OTHERS), *PAGES]
FENCED = re.compile(r"^```.*?^```$", re.S | re.M)
PLACES = {
    "hsexport/": "",
    "runtime/": "",
    "engines/": "",
    "tests/": "",
    "scripts/": "",
    "docs/": "",
    "requirements/": "",
}
PLACES |= {"hsruntime/": "runtime/", "hsengines/": "engines/"}
"""How a path in a document begins, and the folder that it is meant in."""
STEPS = re.compile(r"<!-- steps: ([^\n]+) -->\n(.*?)<!-- end of steps -->", re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose_of(document: Path) -> str:
    """A document without its fenced code."""
    return FENCED.sub("", document.read_text(encoding="utf-8"))


def links_of(document: Path) -> list[str]:
    """What a document links to, of what lies in the repository."""
    return [link for link in LINK.findall(prose_of(document)) if not re.match(r"\w+:", link)]


def missing_paths(text: str) -> list[str]:
    """Code spans that look like paths of the repository and are none."""
    spans = [span for span in re.findall(r"`([\w./-]+)`", text) if span.startswith(tuple(PLACES))]
    return [span for span in spans if not (ROOT / PLACES[f"{span.partition('/')[0]}/"] / span).exists()]


def anchors_of(document: Path) -> set[str]:
    """A document's headings as GitHub calls them: small letters, spaces as hyphens, other marks left out."""
    headings = re.findall(r"^#+ (.+)$", prose_of(document), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(document: Path, link: str) -> bool:
    """Whether a link leads to no file, or to no heading of one."""
    name, _, anchor = link.partition("#")
    target = (document.parent / name).resolve() if name else document
    return not target.exists() or (bool(anchor) and anchor not in anchors_of(target))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(document):
    assert [link for link in links_of(document) if broken(document, link)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_path_is_there(document):
    assert missing_paths(prose_of(document)) == []


def test_a_path_that_moved_is_found():
    text = "`hsexport/passes` and `hsexport/onnx/passes`, `hsruntime/sequences.py` and `hsruntime/session.py`"
    assert missing_paths(text) == ["hsexport/passes", "hsruntime/sequences.py"]


def test_steps_are_shown_as_they_run():
    found = STEPS.findall((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    assert found
    for names, body in found:
        assert body == f"\n{markdown(*names.split(', '))}\n"


def test_every_page_is_one_click_from_the_readme():
    reached = {(ROOT / link.partition("#")[0]).resolve() for link in links_of(ROOT / "README.md")}
    assert [page.name for page in DOCUMENTS[1:] if page not in reached] == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One thing\n\n[a](#one-thing) [b](#another) [c](nowhere.md) [d](page.md#one-thing) [e](https://x)\n"
    )
    assert [link for link in links_of(page) if broken(page, link)] == ["#another", "nowhere.md"]
