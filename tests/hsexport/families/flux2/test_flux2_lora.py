"""LoRAs for FLUX.2, by diffusers' names and by Black Forest Labs'."""

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from lora_files import fused_by_hand, lora_of
from safetensors.numpy import save_file
from tiny_flux2 import TEXT_LENGTH

from hsexport.build.recipe import recipe_from_pair
from hsexport.build.request import BuildRequest
from hsexport.checkpoints.weights import stored
from hsexport.checkpoints.weights.adapter import AdapterRequest, changeable_from, fused, read_adapter
from hsexport.families.pair import load_pair, read_member
from hsruntime import Session

MODULES = [
    "transformer_blocks.1.attn.to_add_out",
    "single_transformer_blocks.0.attn.to_qkv_mlp_proj",
    "norm_out.linear",
]
PARTS = [f"transformer_blocks.0.attn.to_{part}" for part in "qkv"]


def loras_of(pipeline):
    """The same LoRA over the same modules, by diffusers' names and by Black Forest Labs'."""
    ours = lora_of(pipeline, [*MODULES, *PARTS])
    stems = [f"transformer.{module}" for module in PARTS]
    down = ours[f"{stems[0]}.lora_A.weight"]
    ours |= {f"{stem}.lora_A.weight": down.copy() for stem in stems}
    turned = np.concatenate(np.split(ours[f"transformer.{MODULES[2]}.lora_B.weight"], 2)[::-1])
    theirs = {
        "double_blocks.0.img_attn.qkv": (down, np.concatenate([ours[f"{stem}.lora_B.weight"] for stem in stems])),
        "double_blocks.1.txt_attn.proj": sides(ours, MODULES[0]),
        "single_blocks.0.linear1": sides(ours, MODULES[1]),
        "final_layer.adaLN_modulation.1": (sides(ours, MODULES[2])[0], turned),
    }
    return ours, theirs


def sides(tensors, module):
    return tuple(tensors[f"transformer.{module}.lora_{side}.weight"] for side in "AB")


def spelt(theirs, style):
    """By Black Forest Labs' names, as ComfyUI and most trainers write them, or as kohya's scripts do."""
    if style == "kohya":
        theirs = {module.replace(".", "_"): matrices for module, matrices in theirs.items()}
    stem, *sides = {"kohya": ("lora_unet_", "down", "up"), "ComfyUI": ("diffusion_model.", "A", "B")}[style]
    return {
        f"{stem}{module}.lora_{side}.weight": matrix
        for module, matrices in theirs.items()
        for side, matrix in zip(sides, matrices, strict=True)
    }


@pytest.mark.parametrize("style", ["ComfyUI", "kohya"])
@pytest.mark.parametrize("layout", ["folder", "file"])
def test_a_lora_by_either_names_changes_the_same_weights(flux2_dirs, folder, twin, tmp_path, style, layout):
    ours, theirs = loras_of(flux2_dirs[0])
    member = read_member("large", str(folder if layout == "folder" else twin))
    changeable, found = changeable_from(member.tensors, member.family.places(member.config)), []
    for name, tensors in (("diffusers", ours), ("theirs", spelt(theirs, style))):
        file = tmp_path / f"{name}.safetensors"
        save_file({key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}, file)
        request = AdapterRequest("large", file, 0.5)
        adapter = read_adapter(request, {}, {"large": changeable}.__getitem__, str(member))
        updates = adapter.updates["large"]
        assert updates.keys() == {f"{module}.weight" for module in [*MODULES, *PARTS]}
        found.append(fused({key: stored(header) for key, header in member.tensors.items()}, [updates]))
    for name in member.tensors:
        np.testing.assert_array_equal(found[0][name].read(), found[1][name].read(), name)
    changed = f"{PARTS[1]}.weight"
    down, up = (ours[f"transformer.{PARTS[1]}.lora_{side}.weight"] for side in "AB")
    np.testing.assert_allclose(
        found[1][changed].read(), stored(member.tensors[changed]).read() + 0.5 * up @ down, atol=1e-6
    )  # two orders of summation in float32


def test_a_lora_at_run_time_is_the_bundle_that_was_built_with_it(flux2_dirs, flux2_built, flux2_bundle, tmp_path):
    _, theirs = loras_of(flux2_dirs[0])
    file = tmp_path / "style.safetensors"
    save_file({key: np.ascontiguousarray(each) for key, each in spelt(theirs, "ComfyUI").items()}, file)
    with Session.open(flux2_bundle) as session:
        plain = session.generate("a pear", schedule="large:3,light:2,small:2").images
        merged = session.with_adapters(f"{file}:0.5").generate("a pear", schedule="large:3,light:2,small:2").images
    with Session.open(flux2_built(*flux2_dirs, lora=(AdapterRequest("large", file, 0.5),))) as session:
        built = session.generate("a pear", schedule="large:3,light:2,small:2").images
    assert np.array_equal(merged, built)
    assert not np.array_equal(merged, plain)


TEXT = ["model.layers.0.self_attn.q_proj", "model.layers.7.mlp.down_proj", "model.layers.27.mlp.up_proj"]
"""The last lies behind the states that are taken."""


@pytest.fixture(params=["large", "small"])
def text_lora(request, flux2_dirs, tmp_path):
    """(role, the member's folder, tensors over its own encoder, their file)."""
    folder = flux2_dirs[("large", "small").index(request.param)]
    tensors = lora_of(folder, TEXT, part="text_encoder")
    save_file(tensors, tmp_path / "text.safetensors")
    return request.param, folder, tensors, tmp_path / "text.safetensors"


def test_text_layers_change_the_members_own_encoder(text_lora, flux2_bundle):
    role, folder, tensors, file = text_lora
    with Session.open(flux2_bundle) as session:
        plain, found = session.encode("a pear"), session.with_adapters(f"{role}={file}").encode("a pear")
    ours, others = ("text", "small_text") if role == "large" else ("small_text", "text")
    np.testing.assert_array_equal(found[others], plain[others])
    pipeline = Flux2KleinPipeline.from_pretrained(folder, dtype=torch.float32)
    fused_by_hand(pipeline.text_encoder, tensors, "text_encoder.")
    with torch.no_grad():
        expected = pipeline.encode_prompt("a pear", max_sequence_length=TEXT_LENGTH)[0].numpy()
    assert np.abs(plain[ours] - expected).max() > 0.1
    # Two orders of summation in float32, 27 random layers deep.
    assert np.abs(found[ours] - expected).max() < 1e-4 * np.abs(expected).max()


def test_build_fuses_what_a_session_merges(text_lora, flux2_dirs, tmp_path):
    role, _, tensors, file = text_lora
    large, small = map(str, flux2_dirs)
    request = BuildRequest(large, small, tmp_path, tmp_path, lora=(AdapterRequest(role, file, 0.5),))
    recipe = recipe_from_pair(load_pair(large, small), request)
    engine = {"large": "text_encoder", "small": "small_text_encoder"}[role]
    (weights,) = (network.weights for network in recipe.networks() if network.name == engine)
    stem = f"{TEXT[0].removeprefix('model.')}.weight"
    down, up = (tensors[f"text_encoder.{TEXT[0]}.lora_{side}.weight"] for side in "AB")
    before = stored(weights.sources[stem]).read()
    np.testing.assert_allclose(weights[stem].read(), before + 0.5 * up @ down, atol=1e-6)
    assert len(weights.extra) == 1 and not any(
        network.weights.extra for network in recipe.networks() if network.weights and network.name != engine
    )
