"""The load stage: the pair found, set against the room that is there, downloaded, and read."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hsengines.weights import FORMATS, formats_in
from hsexport.build.recipe import check_tokenizers, recipe_for
from hsexport.build.request import BuildRequest, RecipeError
from hsexport.build.stages.stage import Run
from hsexport.checkpoints.hub import Downloads
from hsexport.checkpoints.previews import Previews
from hsexport.families.agreement import check_same_weights
from hsexport.families.pair import quantised_members
from hsexport.families.recipe import Recipe
from hsexport.progress import bytes_told

AskRoom = Callable[[BuildRequest, Recipe, Previews], Iterable[str]]
"""Raises an HSError for a build that finds no room, and tells of doubts; hsexport.plan has one."""


def _what_becomes(run: Run) -> str:
    """Of tensors that the checkpoint has quantised."""
    if {"fp8", "int8"} & set(formats_in(run.request.options.weights)):
        return "where --weights stores them in the same 8 bits they are kept as they are, else dequantised"
    return "they are dequantised"


def _check_calibrated(run: Run) -> None:
    """Refuses formats that are nothing without a calibration, and tells of those that are less."""
    for name in formats_in(run.request.options.weights) if run.calibration is None else ():
        if not FORMATS[name].without_calibration:
            raise RecipeError(
                f"--weights {name} quantises activations, and needs their ranges",
                "measure them with `hsexport calibrate`, then build with --calibration FILE",
            )
        if FORMATS[name].activations:
            run.reporter.warn(f"--weights {name} without --calibration: weights alone are stored so")


def load(run: Run, ask_room: AskRoom | None) -> Recipe:
    """The recipe of a pair that is here. Raises PairError, RecipeError, or what `ask_room` raises."""
    request, reporter = run.request, run.reporter
    _check_calibrated(run)
    reporter.stage("load", 1)
    reporter.begin("pair")
    with Previews() as previews:  # room is asked for before anything is downloaded
        recipe = recipe_for(request, previews)
        for doubt in ask_room(request, recipe, previews) if ask_room else ():
            reporter.warn(doubt)
    if previews.root is not None:  # a pair that is here already is read once
        recipe = recipe_for(request, Downloads(bytes_told(reporter, "pair", "downloaded")))
    for adapter in (adapter for adapters in recipe.adapters.values() for adapter in adapters):
        if adapter.warning:
            reporter.warn(adapter.warning)
    if run.calibration:
        run.calibration.check_members({role: member.source for role, member in recipe.facts.members.items()})
    for name, counts in quantised_members(recipe.pair, request.parts_left_out):
        reporter.warn(f"{name} is quantised: {counts}; {_what_becomes(run)}")
    check_tokenizers(recipe)
    check_same_weights(recipe.pair, request.parts_left_out, bytes_told(reporter, "pair", "compared"))
    told = ", ".join(f"{role} {m.parameters / 1e6:.1f} M" for role, m in recipe.facts.members.items())
    reporter.end("pair", f"{told} parameters")
    return recipe
