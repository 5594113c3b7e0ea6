"""The build, as a sentence: load, export, optimise, compile, verify, pack."""

from __future__ import annotations

from hsexport.build.memory import return_what_is_freed
from hsexport.build.request import BuildRequest
from hsexport.build.stages.compile import compile_all
from hsexport.build.stages.export import export_all
from hsexport.build.stages.load import AskRoom, load
from hsexport.build.stages.optimise import optimise_all
from hsexport.build.stages.pack import pack
from hsexport.build.stages.stage import Run
from hsexport.build.stages.verify import verify_all
from hsexport.progress import Reporter
from hsruntime.bundle.reader import Bundle

STAGES = {"export": export_all, "optimise": optimise_all, "compile": compile_all, "verify": verify_all}


def build(request: BuildRequest, reporter: Reporter, ask_room: AskRoom | None = None) -> Bundle | None:
    """Builds and writes a bundle; None where the request has it stop before. Raises an HSError for what users can mend.

    `ask_room` is asked before anything is downloaded or written whether the build will find room.

    Every product lands whole in the cache before the next one starts, so a build killed anywhere goes on there.
    """
    return_what_is_freed()
    run = Run(request, reporter)
    run.backend.check_options(request.options)
    recipe = load(run, ask_room)
    products = run.products(recipe.networks())
    for name, stage in STAGES.items():
        stage(products, run)
        if request.stop_after == name:
            return None
    return pack(products, run, recipe)
