"""The load stage: the pair found, set against the room that is there, downloaded, and read."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hsexport.build.recipe import check_tokenizers, recipe_for
from hsexport.build.request import BuildRequest
from hsexport.build.stages.stage import Run
from hsexport.checkpoints.hub import Downloads
from hsexport.checkpoints.previews import Previews
from hsexport.families.agreement import check_same_weights
from hsexport.families.pair import quantised_members
from hsexport.families.recipe import Recipe
from hsexport.progress import bytes_told

AskRoom = Callable[[BuildRequest, Recipe, Previews], Iterable[str]]
"""Raises an HSError for a build that finds no room, and tells of doubts; hsexport.plan has one."""


def load(run: Run, ask_room: AskRoom | None) -> Recipe:
    """The recipe of a pair that is here. Raises PairError, RecipeError, or what `ask_room` raises."""
    request, reporter = run.request, run.reporter
    reporter.stage("load", 1)
    reporter.begin("pair")
    with Previews() as previews:  # room is asked for before anything is downloaded
        recipe = recipe_for(request, previews)
        for doubt in ask_room(request, recipe, previews) if ask_room else ():
            reporter.warn(doubt)
    if previews.root is not None:  # a pair that is here already is read once
        recipe = recipe_for(request, Downloads(bytes_told(reporter, "pair", "downloaded")))
    for adapter in (adapter for adapters in recipe.adapters.values() for adapter in adapters):
        if adapter.left_out:
            told = f"{adapter.file} also changes text encoders ({adapter.left_out} tensors): that part is not fused"
            reporter.warn(told)
    for name, counts in quantised_members(recipe.pair, request.parts_left_out):
        reporter.warn(f"{name} is quantised: {counts}; they are dequantised")
    check_tokenizers(recipe)
    check_same_weights(recipe.pair, request.parts_left_out, bytes_told(reporter, "pair", "compared"))
    told = ", ".join(f"{role} {m.parameters / 1e6:.1f} M" for role, m in recipe.facts.members.items())
    reporter.end("pair", f"{told} parameters")
    return recipe
