"""One model in several layouts of files gives one bundle."""

import filecmp
import json
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file, save_file
from single_file_twin import write_twin
from tiny_pair import make_pipeline

from hsexport.build.build import build
from hsexport.build.recipe import recipe_from_pair
from hsexport.build.request import BuildRequest
from hsexport.checkpoints.shards import digest_of
from hsexport.families.pair import load_pair
from hsexport.families.sd3.transformer import original_of
from hsexport.progress import Reporter

SINGLE, SHARDED, VARIANT = "single file", "sharded", "variant"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A pipeline trained at the size that its position table reaches, as a single file takes it to be."""
    options = {"layers": 2, "dual_layers": (0,), "sample_size": 8, "pos_embed_max_size": 4}
    return make_pipeline(tmp_path_factory.mktemp("layouts") / "whole", **options)


def laid_out(layout, transformer, folder):
    """The weights in `transformer` once more, in another layout."""
    if layout == SINGLE:
        return write_twin(transformer, folder / "sd3.safetensors")
    folder.mkdir()
    (folder / "config.json").write_bytes((transformer / "config.json").read_bytes())
    (file,) = transformer.glob("*.safetensors")
    if layout == VARIANT:
        (folder / "diffusion_pytorch_model.bf16.safetensors").write_bytes(file.read_bytes())
        return folder
    tensors, places = load_file(file), {}
    for number in (0, 1):
        name = f"diffusion_pytorch_model-0000{number + 1}-of-00002.safetensors"
        shard = {key: tensors[key] for key in sorted(tensors)[number::2]}
        save_file(shard, folder / name)
        places |= dict.fromkeys(shard, name)
    index = {"metadata": {}, "weight_map": places}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def request_for(large, whole, root):
    return BuildRequest(large=str(large), small=str(whole), out=root / "bundle", cache=root / "cache")


@pytest.mark.parametrize("layout", [SINGLE, SHARDED, VARIANT])
def test_manifest_and_weights_are_the_same_from_every_layout(whole, tmp_path, layout):
    other = laid_out(layout, whole / "transformer", tmp_path / "other")
    pairs = [load_pair(str(large), str(whole)) for large in (whole / "transformer", other)]
    recipes = [recipe_from_pair(pair, request_for("", "", tmp_path)) for pair in pairs]
    assert recipes[0].facts == recipes[1].facts
    assert digest_of(pairs[0].large.tensors) == digest_of(pairs[1].large.tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [SINGLE, SHARDED, VARIANT])
def test_diffusers_own_model_is_the_same_from_every_layout(whole, tmp_path, layout, dtype):
    other = laid_out(layout, whole / "transformer", tmp_path / "other")
    found = original_of(load_pair(str(other), str(whole)).large, dtype)
    expected = SD3Transformer2DModel.from_pretrained(whole / "transformer", torch_dtype=dtype)
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(ours[name].dtype == dtype and torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_bundles_of_both_layouts_are_equal_byte_for_byte(whole, tmp_path):
    single = laid_out(SINGLE, whole / "transformer", tmp_path / "other")
    for name, large in (("diffusers", whole / "transformer"), ("single", single)):
        build(request_for(large, whole, tmp_path / name), Reporter())
    bundles = [tmp_path / name / "bundle" for name in ("diffusers", "single")]
    files = [sorted(str(f.relative_to(b)) for f in Path(b).rglob("*") if f.is_file()) for b in bundles]
    assert files[0] == files[1]
    assert filecmp.cmpfiles(*bundles, files[0], shallow=False)[1:] == ([], [])
