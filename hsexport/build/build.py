"""The build, as a sentence: load, export, optimise, compile, verify, pack."""

from __future__ import annotations

from hsengines.backend import get_backend
from hsexport.build.memory import return_what_is_freed
from hsexport.build.request import BuildRequest
from hsexport.build.stages.compile import compile_all
from hsexport.build.stages.export import export_all
from hsexport.build.stages.load import AskRoom, load
from hsexport.build.stages.optimise import optimise_all
from hsexport.build.stages.pack import pack
from hsexport.build.stages.verify import verify_all
from hsexport.build.store import Store
from hsexport.progress import Reporter
from hsruntime.bundle.reader import Bundle


def build(request: BuildRequest, reporter: Reporter, ask_room: AskRoom | None = None) -> Bundle | None:
    """Builds and writes a bundle; None where the request has it stop before. Raises an HSError for what users can mend.

    `ask_room` is asked before anything is downloaded or written whether the build will find room.

    Every product lands whole in the cache before the next one starts, so a build killed anywhere goes on there.
    """
    return_what_is_freed()
    backend, options = get_backend(request.backend, request.cache), request.options
    backend.check_options(options)
    recipe = load(request, ask_room, reporter)
    store = Store(request.cache)
    exported = export_all(recipe.networks(), store, reporter)
    if request.stop_after == "export":
        return None
    graphs = optimise_all(exported, backend.name, options.precision, request.fp32, store, reporter)
    if request.stop_after == "optimise":
        return None
    engines = compile_all(graphs, backend, options, store, reporter)
    parity = verify_all(engines, backend, store, reporter)
    return pack(request, recipe, engines, parity, backend, options, reporter)
