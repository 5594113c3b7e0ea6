"""Recipes of the tiny pair and of a pair of real size, and a machine that holds anything."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from hsexport.build.request import BuildRequest
from hsexport.families.recipe import Recipe
from hsexport.plan.machine import Machine


@dataclass(frozen=True)
class Asked(Recipe):
    """A recipe and what it answers."""

    request: BuildRequest


@pytest.fixture(scope="session")
def roomy():
    """A machine that holds anything."""
    return Machine(10**12, 10**12, held_bytes=0, out_free_bytes=10**12, one_disk=True, checkpoint_beside_cache=True)


@pytest.fixture(scope="session")
def tiny_recipe(tiny_pair_dirs):
    """Call it with BuildRequest's options."""
    return lambda **request: recipe_of(*tiny_pair_dirs, **request)


@pytest.fixture(scope="session")
def sd35_recipe(sd35_dirs):
    """Call it with BuildRequest's options."""
    return lambda **request: recipe_of(*sd35_dirs, **request)


def recipe_of(large, small, *, precision="fp32", options=None, backend="ort-cpu", **request):
    """The recipe of a pair."""
    from hsengines.build import build_options
    from hsexport.build.recipe import recipe_for

    options = options or build_options(backend, precision=precision)
    asked = BuildRequest(
        str(large), str(small), Path("bundle"), Path("cache"), options=options, backend=backend, **request
    )
    found = recipe_for(asked)
    return Asked(found.pair, found.facts, found.adapters, asked)
