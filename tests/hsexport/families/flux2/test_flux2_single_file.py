"""FLUX.2 transformers out of single files: the same tensors as diffusers' own, whatever the file calls them."""

import pytest
import torch
from safetensors.torch import load_file
from single_file_twin import PREFIX, black_forest_state, write_hollow_twin, write_twin
from tiny_flux2 import make_flux2_pipeline

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.shards import chunks_of, digest_of, mark_of
from hsexport.families.flux2.family import Flux2
from hsexport.families.pair import load_pair, read_member

read_transformer = Flux2().read_transformer


def with_weights_for_scales(state):
    """As ComfyUI's newer files call what norms hold."""
    names = black_forest_state(state).items()
    return {f"{n.removesuffix('scale')}weight" if n.endswith(".scale") else n: tensor for n, tensor in names}


LAYOUTS = {
    "plain": ("", black_forest_state),
    "as Stability's files": (PREFIX, black_forest_state),
    "as ComfyUI's": ("diffusion_model.", black_forest_state),
    "norms by their newer name": ("", with_weights_for_scales),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_is_the_folder_of_diffusers(folder, tmp_path, kind):
    prefix, names = LAYOUTS[kind]
    file = write_twin(folder, tmp_path / "klein.safetensors", prefix=prefix, names=names)
    (config, tensors), (theirs, expected) = read_transformer(file), read_transformer(folder)
    assert config == theirs
    assert mark_of(tensors) == mark_of(expected) and digest_of(tensors) == digest_of(expected)
    assert read_member("large", str(file)).told_source() == mark_of(expected)


def test_tensors_are_those_of_diffusers_own_converter(twin):
    expected = converted(load_file(twin))
    tensors = read_transformer(twin)[1]
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].name == name and tensors[name].shape == tuple(tensor.shape)
        assert b"".join(chunks_of(tensors[name])) == tensor.contiguous().numpy().tobytes(), name


def converted(state):
    from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers

    return convert_flux2_transformer_checkpoint_to_diffusers(dict(state))


def test_diffusers_reads_the_same_model_from_the_file(twin, folder):
    from diffusers import Flux2Transformer2DModel

    theirs = Flux2Transformer2DModel.from_single_file(
        str(twin), config=str(folder.parent), subfolder="transformer", local_files_only=True
    ).state_dict()
    ours = Flux2().original(read_member("large", str(twin))).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_only_the_turned_modulation_lies_in_more_than_one_piece(twin):
    tensors = read_transformer(twin)[1]
    assert [name for name, header in tensors.items() if len(header.pieces) > 1] == ["norm_out.linear.weight"]


def test_half_precision_keeps_its_type_and_other_parts_are_left(folder, tmp_path):
    extra = {"vae.decoder.conv_in.weight": torch.zeros(2), "text_encoders.qwen3.x": torch.zeros(1)}
    options = {"dtype": torch.bfloat16, "names": black_forest_state}
    for prefix in (PREFIX, ""):
        file = write_twin(folder, tmp_path / "half.safetensors", prefix=prefix, **options, **extra)
        tensors = read_transformer(file)[1]
        assert {header.dtype for header in tensors.values()} == {"BF16"}
        assert tensors.keys() == read_transformer(folder)[1].keys()


REAL = {
    "klein 4B": {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680},
    "klein 9B": {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288},
}


@pytest.mark.parametrize("name", REAL)
def test_models_as_they_are_shipped_are_known_by_their_shapes(tmp_path, name):
    """At their real size, in a file that has no bytes on the disk but its header's."""
    from diffusers import Flux2Transformer2DModel

    with torch.device("meta"):
        model = Flux2Transformer2DModel(**REAL[name], guidance_embeds=False)
    file = write_hollow_twin(tmp_path / "klein.safetensors", black_forest_state(model.state_dict()))
    config, tensors = read_transformer(file)
    said = {key: tuple(value) if isinstance(value, list) else value for key, value in model.config.items()}
    assert {key: said[key] for key in config.diffusers()} == config.diffusers()
    assert not config.is_distilled  # no file says it
    assert {key: header.shape for key, header in tensors.items()} == {
        key: tuple(tensor.shape) for key, tensor in model.state_dict().items()
    }


def test_single_file_stands_beside_a_whole_pipeline(flux2_dirs, tmp_path):
    large, small = flux2_dirs
    file = write_twin(small / "transformer", tmp_path / "small.safetensors", names=black_forest_state)
    widths = make_flux2_pipeline(tmp_path / "same", layers=1, heads=2, seed=1)
    same = write_twin(widths / "transformer", tmp_path / "same.safetensors", names=black_forest_state)
    assert load_pair(str(large), str(same)).small.tensors.keys() == read_transformer(widths / "transformer")[1].keys()
    with pytest.raises(PairError, match=r"joint_attention_dim 24; expected the same"):  # of a text encoder of its own
        load_pair(str(large), str(file))
