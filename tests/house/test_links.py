"""Every link of the documents leads somewhere, and every page is one click from the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
OTHERS = ("README.md", "CHANGELOG.md", "runtime/BUNDLE.md", "runtime/capi/README.md", "hsexport/demo/README.md")
DOCUMENTS = [*(ROOT / name for name in OTHERS), *PAGES]
FENCED = re.compile(r"^```.*?^```$", re.S | re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose_of(document: Path) -> str:
    """A document without its fenced code."""
    return FENCED.sub("", document.read_text(encoding="utf-8"))


def links_of(document: Path) -> list[str]:
    """What a document links to, of what lies in the repository."""
    return [link for link in LINK.findall(prose_of(document)) if not re.match(r"\w+:", link)]


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


def test_every_page_is_one_click_from_the_readme():
    reached = {(ROOT / link.partition("#")[0]).resolve() for link in links_of(ROOT / "README.md")}
    assert [page.name for page in DOCUMENTS[1:] if page not in reached] == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One thing\n\n[a](#one-thing) [b](#another) [c](nowhere.md) [d](page.md#one-thing) [e](https://x)\n"
    )
    assert [link for link in links_of(page) if broken(page, link)] == ["#another", "nowhere.md"]
