"""What is no FLUX.2 transformer, or a broken one: each told in one line that names the file, the fault and a hint."""

import shutil

import pytest
import torch
from quantised_files import write_gguf
from safetensors.torch import load_file, save_file
from single_file_twin import write_twin
from tiny_pair import make_pipeline

from hsexport.checkpoints.documents import PairError
from hsexport.families.flux2.family import Flux2
from hsexport.families.pair import load_pair, read_member
from hsexport.families.registry import family_of
from hsexport.families.sd3.family import Sd3

read_transformer = Flux2().read_transformer


FP8 = torch.float8_e4m3fn
QKV = "double_blocks.0.img_attn.qkv.weight"
BROKEN = {
    "missing": (lambda t: t.pop("single_blocks.1.linear2.weight"), r"it lacks single_blocks.1.linear2.weight"),
    "no modulation": (lambda t: t.pop("single_stream_modulation.lin.weight"), r"it lacks single_stream_modulation.lin"),
    "no image": (lambda t: t.pop("img_in.weight"), r"tensor img_in.weight is missing"),
    "a block between": (
        lambda t: [t.pop(name) for name in list(t) if name.startswith("double_blocks.0.txt_")],
        r"it lacks double_blocks.0.txt_attn.norm.key_norm.scale",
    ),
    "norm": (lambda t: t.pop("double_blocks.0.img_attn.norm.query_norm.scale"), r"query_norm.scale is missing"),
    "foreign": (lambda t: t.update(register=torch.zeros(1)), r"holds register, which no FLUX.2 klein has"),
    "bias": (lambda t: t.update({"img_in.bias": torch.zeros(24)}), r"holds img_in.bias, which no FLUX.2 klein has"),
    "guidance": (
        lambda t: t.update({"guidance_in.in_layer.weight": torch.zeros(24, 16)}),
        r"has guidance_embeds, which FLUX.2-dev has and no klein",
    ),
    "shape": (
        lambda t: t.update({"single_blocks.0.linear1.weight": torch.zeros(5, 24)}),
        r"single_blocks.0.linear1.weight is \[5, 24\], which makes .*attn.to_qkv_mlp_proj.weight .*expected \[216",
    ),
    "dimensions": (lambda t: t.update({"txt_in.weight": torch.zeros(24)}), r"tensor txt_in.weight is \[24\]"),
    "no numbers": (lambda t: t.update({"txt_in.weight": torch.zeros(24, 0)}), r"tensor txt_in.weight is \[24, 0\]"),
    "scalar": (lambda t: t.update({QKV: torch.zeros(())}), r"qkv.weight is \[\], expected rows for 3 tensors"),
    "rows": (lambda t: t.update({QKV: torch.zeros(73, 24)}), r"qkv.weight is \[73, 24\], expected rows for 3 tensors"),
    "width": (lambda t: t.update({QKV: torch.zeros(69, 24)}), r"qkv.weight is \[69, 24\], which makes .*to_q.weight"),
    "heads": (
        lambda t: t.update({"double_blocks.0.img_attn.norm.query_norm.scale": torch.zeros(7)}),
        r"has width 24, expected a multiple of the head size 7",
    ),
    "turns": (
        lambda t: t.update({"double_blocks.0.img_attn.norm.query_norm.scale": torch.zeros(6)}),
        r"has axes_dims_rope \[1, 1, 1, 1\], expected even widths that come to the attention_head_dim 6",
    ),
    "half a gate": (
        lambda t: t.update({"double_blocks.0.img_mlp.0.weight": torch.zeros(145, 24)}),
        r"img_mlp.0.weight is \[145, 24\], .* expected \[144, 24\]",
    ),
    "integers": (
        lambda t: t.update({"double_blocks.0.img_attn.norm.key_norm.scale": torch.zeros(8, dtype=torch.int32)}),
        r"key_norm.scale is I32, expected a float type",
    ),
    "NVFP4": (lambda t: t.update({"img_in.weight_scale_2": torch.ones(())}), r"of a kind of .* that is not read"),
    "a scale for each row": (
        lambda t: t.update({"img_in.weight": torch.zeros(24, 16, dtype=FP8), "img_in.weight_scale": torch.ones(24)}),
        r"img_in.weight_scale is F32\[24\], expected one number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_file_is_told_in_a_line_that_names_the_tensor(twin, tmp_path, kind):
    change, words = BROKEN[kind]
    tensors = load_file(twin)
    change(tensors)
    save_file(tensors, tmp_path / "x.safetensors")
    refused(lambda: read_member("large", str(tmp_path / "x.safetensors")), words)


def refused(read, words):
    """In one line that names the file and what to do."""
    with pytest.raises(PairError, match=words) as raised:
        read()
    told = str(raised.value)
    assert "\n" not in told and "/x." in told and "; " in told


@pytest.mark.parametrize("left", [5, 200, -1], ids=["in the length", "in the header", "in the numbers"])
def test_truncated_file_is_told(twin, tmp_path, left):
    (tmp_path / "x.safetensors").write_bytes(twin.read_bytes()[:left])
    refused(lambda: family_of(tmp_path / "x.safetensors"), "truncated|not a safetensors|broken|ends")


def test_truncated_gguf_is_told(state, tmp_path):
    file = write_gguf(state, tmp_path / "x.gguf", "flux2")
    file.write_bytes(file.read_bytes()[:-1000])
    refused(lambda: read_member("large", str(file)), "x.gguf is truncated")


FOREIGN = {
    "a LoRA": ["diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight"],
    "a LoRA,": ["diffusion_model.double_stream_modulation_img.lin.lora_A.weight"],
    "a ControlNet": ["control_img_in.weight"],
    "a ControlNet,": ["controlnet_blocks.0.weight", "single_stream_modulation.lin.weight"],
    "a FLUX.1 checkpoint": ["double_blocks.0.img_attn.qkv.bias", "double_blocks.0.img_mod.lin.weight", "vector_in.x"],
    "a Chroma checkpoint": ["double_blocks.0.img_attn.qkv.bias", "distilled_guidance_layer.in_proj.weight"],
    "one file of a diffusers directory": [
        "single_stream_modulation.linear.weight",
        "double_stream_modulation_img.linear.weight",
        "single_transformer_blocks.0.attn.to_out.weight",
        "time_guidance_embed.timestep_embedder.linear_1.weight",
    ],
    "a Stable Diffusion XL checkpoint": ["conditioner.embedders.0.x", "model.diffusion_model.input_blocks.0.0.weight"],
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_file_is_called_by_its_name(kind, tmp_path):
    file = tmp_path / "x.safetensors"
    save_file({name: torch.zeros(1) for name in FOREIGN[kind]}, file)
    refused(lambda: read_transformer(file), rf"x.safetensors is {kind}.* expected a FLUX.2 checkpoint; ")
    refused(lambda: read_member("large", str(file)), rf"x.safetensors is {kind}.* expected .*a FLUX.2 checkpoint; ")


def test_file_of_no_family_is_told_what_was_looked_for(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file({"weight": torch.zeros(1)}, file)
    both = (
        "holds no joint_blocks or double_stream_modulation_img.lin, expected an SD3 checkpoint or a FLUX.2 checkpoint"
    )
    refused(lambda: family_of(file), f"{both}; hsexport exports the SD3 and FLUX.2 families")
    refused(lambda: read_transformer(file), r"holds no double_stream_modulation_img.lin, expected a FLUX.2 checkpoint")


@pytest.fixture(scope="module")
def of_sd3(tmp_path_factory):
    """An SD3 transformer in a single file."""
    root = tmp_path_factory.mktemp("sd3")
    return write_twin(make_pipeline(root, layers=2, transformer_only=True) / "transformer", root / "x.safetensors")


def test_family_is_told_by_the_names_in_a_file(twin, of_sd3, state, tmp_path):
    assert (family_of(twin).name, family_of(of_sd3).name) == ("flux2", "sd3")
    assert family_of(write_gguf(state, tmp_path / "x.gguf", "flux")).name == "flux2"


def test_files_of_one_family_are_refused_by_the_other(twin, of_sd3, flux2_dirs, tmp_path):
    refused(lambda: read_transformer(of_sd3), r"is an SD3 checkpoint, expected a FLUX.2 checkpoint")
    file = shutil.copy(twin, tmp_path / "x.safetensors")
    refused(lambda: Sd3().read_transformer(file), r"is a FLUX.2 checkpoint, expected an SD3 checkpoint")
    refused(lambda: load_pair(str(flux2_dirs[0]), str(of_sd3)), r"are of two families: FLUX.2 and SD3")


def test_architecture_of_another_model_is_told(state, tmp_path):
    file = write_gguf(state, tmp_path / "x.gguf", "sd3")
    refused(lambda: read_member("large", str(file)), "is a model of architecture 'sd3', expected flux or flux2")
    file = write_gguf(state, tmp_path / "x.gguf", "llama")
    refused(lambda: read_member("large", str(file)), "architecture 'llama', expected sd3 or flux or flux2; give a GGUF")
    flux1 = {
        "double_blocks.0.img_mod.lin.weight": torch.zeros(32, 32),
        "vector_in.in_layer.weight": torch.zeros(32, 32),
    }
    file = write_gguf(flux1, tmp_path / "x.gguf", "flux")
    refused(lambda: read_member("large", str(file)), "is a FLUX.1 checkpoint, expected an SD3 checkpoint or a FLUX.2")
