"""Measurements of a pair whose prompts go through one text encoder a member."""

from pathlib import Path

import pytest
from tiny_flux2 import make_flux2_pair

from hsexport.build.recipe import recipe_for
from hsexport.build.request import BuildRequest
from hsexport.measure.gpu_check.results import Asked
from hsexport.measure.gpu_check.target import torch_times
from hsexport.measure.speed import pipeline_options


@pytest.fixture(scope="module")
def dirs(tmp_path_factory):
    return make_flux2_pair(tmp_path_factory.mktemp("pair"))


def test_the_pipeline_is_asked_for_as_many_tokens_as_the_bundle_has(dirs):
    large, small = map(str, dirs)
    asked = BuildRequest(large, small, Path(), Path(), size=(32, 48), max_sequence_length=96)
    options = pipeline_options(recipe_for(asked).facts)
    assert options["max_sequence_length"] == 96
    assert (options["width"], options["height"]) == (32, 48)


def test_torch_draws_with_the_pairs_pipeline(dirs):
    large, small = map(str, dirs)
    row = next(torch_times(Asked(large, small, Path(), Path(), size=(32, 32), steps=3, rounds=1), "fp32", "cpu"))
    assert (row.way, row.problem) == ("eager", "")
    assert row.seconds > 0
