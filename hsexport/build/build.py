"""The build, as a sentence: load, export, optimise, compile, verify, pack."""

from __future__ import annotations

from hsengines.backend import get_backend
from hsexport.build.memory import return_what_is_freed
from hsexport.build.recipe import check_tokenizers, recipe_for
from hsexport.build.request import BuildRequest
from hsexport.build.stages.compile import compile_all
from hsexport.build.stages.export import export_all
from hsexport.build.stages.optimise import optimise_all
from hsexport.build.stages.pack import pack
from hsexport.build.stages.verify import verify_all
from hsexport.build.store import Store
from hsexport.checkpoints.downloads import Downloads
from hsexport.checkpoints.previews import Previews
from hsexport.families.same_weights import check_same_weights
from hsexport.networks.recipe import Recipe
from hsexport.plan.plan import check_room, plan_here
from hsexport.progress import Reporter, bytes_told
from hsruntime.bundle.reader import Bundle


def build(request: BuildRequest, reporter: Reporter) -> Bundle | None:
    """Builds and writes a bundle; None where the request has it stop before. Raises an HSError for what users can mend.

    Every product lands whole in the cache before the next one starts, so a build killed anywhere goes on there.
    """
    return_what_is_freed()
    backend, options = get_backend(request.backend, request.cache), request.options
    backend.check_options(options)
    reporter.stage("load", 1)
    reporter.begin("pair")
    recipe = _recipe_with_room(request, reporter)
    networks = recipe.networks()
    check_tokenizers(recipe)
    check_same_weights(recipe.pair, request.parts_left_out, bytes_told(reporter, "pair", "compared"))
    reporter.end(
        "pair", f"{recipe.facts.large.parameters / 1e6:.1f}M and {recipe.facts.small.parameters / 1e6:.1f}M parameters"
    )
    store = Store(request.cache)
    exported = export_all(networks, store, reporter)
    if request.stop_after == "export":
        return None
    graphs = optimise_all(exported, backend.name, options.precision, request.fp32, store, reporter)
    if request.stop_after == "optimise":
        return None
    engines = compile_all(graphs, backend, options, store, reporter)
    parity = verify_all(engines, backend, store, reporter)
    return pack(request, recipe, engines, parity, backend, options, reporter)


def _recipe_with_room(request: BuildRequest, reporter: Reporter) -> Recipe:
    """Asks for room before anything is downloaded; a pair that is here already is read once."""
    with Previews() as previews:
        recipe = recipe_for(request, previews)
        for doubt in check_room(plan_here(request, recipe, previews)):
            reporter.warn(doubt)
    if previews.root is None:
        return recipe
    return recipe_for(request, Downloads(bytes_told(reporter, "pair", "downloaded")))
