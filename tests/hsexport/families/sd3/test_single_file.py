from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file, save_file
from single_file_twin import PREFIX, stability_state, write_hollow_twin, write_twin
from tiny_pair import make_pipeline

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.shards import chunks_of, digest_of
from hsexport.families.pair import load_pair, read_member
from hsexport.families.sd3.family import Sd3

read_transformer = Sd3().read_transformer

VARIANTS = {
    "plain": {"layers": 3, "heads": 3},
    "dual": {"layers": 2, "dual_layers": (0,)},
    "dual in the last": {"layers": 2, "dual_layers": (0, 1)},
    "not normed": {"layers": 2, "heads": 1, "head_size": 64, "qk_norm": None},
}


@pytest.fixture(scope="module", params=VARIANTS)
def folder(request, tmp_path_factory):
    """A transformer as diffusers writes it, trained at the size that its position table reaches."""
    options = VARIANTS[request.param] | {"sample_size": 24, "transformer_only": True}
    return make_pipeline(tmp_path_factory.mktemp("transformer"), **options) / "transformer"


@pytest.fixture(params=[PREFIX, ""], ids=["prefix", "no prefix"])
def twin(folder, tmp_path, request):
    """The same in a single file, by Stability's names."""
    return write_twin(folder, tmp_path / "sd3.safetensors", prefix=request.param)


def data_of(header):
    return b"".join(chunks_of(header))


def test_both_layouts_give_one_configuration_and_one_digest(folder, twin):
    (config, tensors), (theirs, diffusers_tensors) = read_transformer(twin), read_transformer(folder)
    assert config == theirs
    assert digest_of(tensors) == digest_of(diffusers_tensors)


def test_tensors_are_those_of_diffusers_own_converter(twin):
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    expected = convert_sd3_transformer_checkpoint_to_diffusers(load_file(twin))
    tensors = read_transformer(twin)[1]
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].name == name
        assert tensors[name].shape == tuple(tensor.shape)
        assert data_of(tensors[name]) == tensor.contiguous().numpy().tobytes(), name


def test_only_the_turned_modulations_lie_in_more_than_one_piece(twin):
    config, tensors = read_transformer(twin)
    turned = {name for name, header in tensors.items() if len(header.pieces) > 1}
    modulations = ("norm_out.linear", f"transformer_blocks.{config.num_layers - 1}.norm1_context.linear")
    assert turned == {f"{name}.{kind}" for name in modulations for kind in ("weight", "bias")}


def test_half_precision_keeps_its_type_and_other_parts_are_left(folder, tmp_path):
    extra = {"first_stage_model.decoder.conv_in.weight": torch.zeros(2), "text_encoders.clip_l.x": torch.zeros(1)}
    file = write_twin(folder, tmp_path / "half.safetensors", dtype=torch.bfloat16, **extra)
    tensors = read_transformer(file)[1]
    assert {header.dtype for header in tensors.values()} == {"BF16"}
    assert tensors.keys() == read_transformer(folder)[1].keys()


def test_mark_is_of_the_weights_not_of_path_or_layout(folder, twin, tmp_path):
    marks = {read_member("large", str(path)).told_source() for path in (folder, twin)}
    assert len(marks) == 1 and marks.pop().startswith("local:")
    tuned = load_file(twin)
    next(iter(tuned.values())).flatten()[0] += 1
    save_file(tuned, tmp_path / "tuned.safetensors")
    tuned_mark = read_member("large", str(tmp_path / "tuned.safetensors")).told_source()
    assert tuned_mark != read_member("large", str(twin)).told_source()


REAL = {
    "sd3_medium": {"num_layers": 24, "num_attention_heads": 24, "pos_embed_max_size": 192},
    "sd3.5_medium": {
        "num_layers": 24,
        "num_attention_heads": 24,
        "pos_embed_max_size": 384,
        "dual_attention_layers": tuple(range(13)),
        "qk_norm": "rms_norm",
    },
    "sd3.5_large": {"num_layers": 38, "num_attention_heads": 38, "pos_embed_max_size": 192, "qk_norm": "rms_norm"},
}


@pytest.mark.parametrize("name", REAL)
def test_models_as_stability_ships_them_are_known_by_their_shapes(tmp_path, name):
    """At their real size, in a file that has no bytes on the disk but its header's."""
    from diffusers import SD3Transformer2DModel

    widths = {"joint_attention_dim": 4096, "pooled_projection_dim": 2048, "out_channels": 16}
    options = REAL[name] | {"caption_projection_dim": 64 * REAL[name]["num_attention_heads"]} | widths
    with torch.device("meta"):
        model = SD3Transformer2DModel(**options)
    write_hollow_twin(tmp_path / f"{name}.safetensors", stability_state(model.state_dict()))
    config, tensors = read_transformer(tmp_path / f"{name}.safetensors")
    said = {key: tuple(value) if isinstance(value, list) else value for key, value in model.config.items()}
    assert {field: said[field] for field in asdict(config)} == asdict(config)
    assert config.attention_head_dim == 64 and config.sample_size == 128
    assert {key: header.shape for key, header in tensors.items()} == {
        key: tuple(tensor.shape) for key, tensor in model.state_dict().items()
    }
    learned = sum(header.elements for header in tensors.values() if Sd3().counts(header.name))
    assert learned == sum(parameter.numel() for parameter in model.parameters())


def test_single_file_stands_beside_a_whole_pipeline(tiny, tmp_path):
    file = write_twin(tiny[1] / "transformer", tmp_path / "small.safetensors")
    pair = load_pair(str(tiny[0]), str(file))
    assert pair.small.tensors.keys() == load_pair(*map(str, tiny)).small.tensors.keys()
    assert pair.small.parameters == load_pair(*map(str, tiny)).small.parameters
    assert pair.shared["vae"] == tiny[0] / "vae"


def test_pair_of_single_files_alone_is_told_that_a_pipeline_is_missing(tiny, tmp_path):
    file = write_twin(tiny[1] / "transformer", tmp_path / "small.safetensors")
    with pytest.raises(PairError, match=r"has vae, .*whole pipeline.*of a single file the transformer alone is taken"):
        load_pair(str(file), str(file))


FOREIGN = {
    "a LoRA": ["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"],
    "a LoRA,": ["lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight"],
    "a Stable Diffusion XL checkpoint": ["conditioner.embedders.0.x", PREFIX + "input_blocks.0.0.weight"],
    "a UNet": [PREFIX + "input_blocks.0.0.weight"],
    "a Flux checkpoint": ["double_blocks.0.img_attn.norm.key_norm.scale"],
    "an AuraFlow checkpoint": ["double_layers.0.attn.w2q.weight"],
    "one file of a diffusers directory": ["time_text_embed.text_embedder.linear_1.weight"],
    "a ControlNet": ["controlnet_blocks.0.weight", "joint_blocks.0.x_block.attn.qkv.weight"],
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_file_is_called_by_its_name(kind, tmp_path):
    save_file({name: torch.zeros(1) for name in FOREIGN[kind]}, tmp_path / "x.safetensors")
    with pytest.raises(PairError, match=rf"x.safetensors is {kind}.* expected an SD3 checkpoint; ."):
        read_transformer(tmp_path / "x.safetensors")


def test_file_of_something_else_is_told_what_was_looked_for(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(PairError, match="holds no joint_blocks, expected an SD3 checkpoint"):
        read_transformer(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "start", "told"),
    [
        ("x.gguf", b"GGUF\3\0\0\0", "is truncated"),
        ("x.bin", b"GGUF\3\0\0\0", "is truncated"),
        ("x.gguf", b"\x80\2", "is not a GGUF file"),
        ("x.ckpt", b"\x80\2", "is a pickle, expected safetensors"),
    ],
)
def test_gguf_and_pickles_are_told_by_name_and_beginning(tmp_path, name, start, told):
    (tmp_path / name).write_bytes(start)
    with pytest.raises(PairError, match=rf"{name} {told}"):
        read_transformer(tmp_path / name)


def test_file_of_integers_is_asked_for_the_original(tiny, tmp_path):
    file = write_twin(tiny[1] / "transformer", tmp_path / "int8.safetensors", dtype=torch.int8)
    with pytest.raises(PairError, match=r"int8.safetensors: tensor .* is I8, expected a float type; give the original"):
        read_transformer(file)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda t: t.pop("joint_blocks.1.x_block.mlp.fc1.bias"), r"it lacks joint_blocks.1.x_block.mlp.fc1.bias"),
        (lambda t: t.pop("pos_embed"), r"tensor pos_embed is missing"),
        (lambda t: t.update(register=torch.zeros(1)), r"holds register, which no SD3 transformer has"),
        (lambda t: t.update({"context_embedder.weight": torch.zeros(5, 32)}), r"has caption_projection_dim 5"),
        (
            lambda t: t.update({"joint_blocks.0.x_block.attn.qkv.bias": torch.zeros(49)}),
            r"attn.qkv.bias is \[49\], expected rows for 3 tensors",
        ),
    ],
    ids=["lacks", "no table", "foreign", "width", "rows"],
)
def test_broken_file_names_the_tensor(tiny, tmp_path, change, fault):
    file = write_twin(tiny[1] / "transformer", tmp_path / "broken.safetensors", prefix="")
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(PairError, match=fault):
        read_transformer(file)
