"""What an install brings that asks for nothing, or for a CPU alone: no training library, no schema library, no tool."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from hsexport.deploy.archive.pins import Target, pins_of

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
UNWANTED = {"torch", "pydantic", "polygraphy", "typer"}


def brought(*extras: str) -> set[str]:
    """Every distribution that hsexport requires with `extras`, and what these require in turn, as installed here."""
    wanted = [*PROJECT["dependencies"], *(each for extra in extras for each in PROJECT["optional-dependencies"][extra])]
    return {pin.partition("==")[0] for pin in pins_of(wanted, "", Target(), {})}


@pytest.mark.parametrize("extras", [(), ("cpu",)], ids=["bare", "cpu"])
def test_install_brings_what_runs_and_no_more(extras):
    found = brought(*extras)
    assert {"numpy", "click", "rich", "msgspec"} <= found
    assert not found & UNWANTED


def test_what_is_unwanted_would_be_found_where_it_is_brought():
    assert {"torch", "polygraphy", "typer"} <= brought("build")
    assert "pydantic" in brought("serve")
