"""What a plan says of SD3.5's pair beside what was measured, as docs/ keeps it: each file names its script."""

import json
from pathlib import Path

import pytest

from hsexport.plan.plan import plan_of
from hsexport.plan.stages import building_bytes

DOCS = Path(__file__).parents[3] / "docs"
GB, MB = 1e9, 1e6


def measured(file):
    return json.loads((DOCS / file).read_text())


def test_memory_and_disk_of_an_export(sd35_recipe, roomy):
    recipe = sd35_recipe(backend="tensorrt-rtx", precision="bf16", stop_after="optimise")
    stages = plan_of(recipe.request, recipe.facts, recipe.networks(), roomy).stages
    found = measured("build.json")["figures"]
    assert max(stage.host_bytes for stage in stages) / GB == pytest.approx(found["memory_gb"], rel=0.15)
    assert sum(stage.disk_bytes for stage in stages) / MB == pytest.approx(found["disk_mb"], rel=0.02)


@pytest.mark.parametrize("built", measured("slices.json")["slices"], ids=lambda built: f"{built['layers']} layers")
def test_memory_of_a_builder(built):
    said = building_bytes(int(built["weights_gb"] * GB), "tensorrt-rtx")
    assert said / GB == pytest.approx(built["private_gb"], rel=0.15)
