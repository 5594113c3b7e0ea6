"""Recipes of the tiny pair and of a pair of real size, and a machine that holds anything."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hsexport.build.request import BuildRequest
from hsexport.families.recipe import Recipe
from hsexport.plan.machine import Machine
from hsexport.plan.networks import resident_weights


@dataclass(frozen=True)
class Asked(Recipe):
    """A recipe and what it answers."""

    request: BuildRequest

    def planned(self, name, **dims):
        """Operations of a network that is no transformer, as the plan counts them."""
        (network,) = (each for each in self.networks() if each.name == name)
        shapes = {weight.name: weight.shape for weight in resident_weights(network, self.request)}
        return network.operations(shapes, dims)


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


@pytest.fixture(scope="session")
def klein_recipe(klein_dirs):
    """Call it with BuildRequest's options."""
    return lambda **request: recipe_of(*klein_dirs, **request)


@pytest.fixture(scope="session")
def counted_graphs():
    """Call it with a recipe and a cache, and the answer with a network's name and extents: operations of its exported
    graph.
    """
    import onnx_ir as ir
    from flops_of_graph import flops_of_graph

    from hsexport.build.stages.export import export_all
    from hsexport.build.stages.stage import Run
    from hsexport.progress import Reporter

    def of_recipe(recipe, cache):
        run = Run(replace(recipe.request, cache=cache), Reporter())
        products = run.products(recipe.networks())
        export_all(products, run)
        graphs = {each.name: (each.network, ir.load(each.onnx)) for each in products}

        def count(name, **dims):
            network, model = graphs[name]
            return flops_of_graph(model, network.spec, dims)

        return count

    return of_recipe


@pytest.fixture(scope="session")
def make_recipe():
    """Call it with two folders and BuildRequest's options."""
    return recipe_of


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
