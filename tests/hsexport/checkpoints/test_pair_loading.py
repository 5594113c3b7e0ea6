import pytest
import torch

from hsexport.build.recipe import recipe_for
from hsexport.build.request import BuildRequest
from hsexport.checkpoints.documents import PairError, in_few_words
from hsexport.checkpoints.tokenizers import load_tokenizer
from hsexport.networks.network import reference_outputs

PARTS = {
    "transformer": "transformer_blocks.0.ff.net.0.proj.weight",
    "vae": "decoder.mid_block.resnets.0.conv1.weight",
    "text_encoder": "text_model.encoder.layers.0.mlp.fc1.weight",
    "text_encoder_3": "encoder.block.0.layer.1.DenseReluDense.wo.weight",
}
NETWORKS = {"transformer": "large", "vae": "vae_decoder"}


@pytest.fixture
def network_of(large, tiny, tmp_path):
    """`network_of(part)` with the large member as it lies there by then."""

    def made(part):
        request = BuildRequest(large=str(large), small=str(tiny[1]), out=tmp_path / "b", cache=tmp_path / "c")
        networks = recipe_for(request).networks()
        return next(network for network in networks if network.name == NETWORKS.get(part, part))

    return made


def answer_of(network):
    return reference_outputs(network.load(), network.spec, network.sample_inputs())


@pytest.mark.parametrize(("part", "tensor"), PARTS.items())
def test_tensor_that_a_library_would_draw_at_random_is_named(large, edit_weights, network_of, part, tensor):
    edit_weights(large / part, lambda tensors: {name: tensors[name] for name in tensors if name != tensor})
    with pytest.raises(PairError, match=rf"large/{part} is a broken checkpoint: .*{tensor}; download or save"):
        network_of(part).load()


@pytest.mark.parametrize(("part", "tensor"), PARTS.items())
def test_tensor_of_another_shape_is_named(large, edit_weights, network_of, part, tensor):
    edit_weights(large / part, lambda tensors: tensors | {tensor: torch.zeros(3, 5)})
    with pytest.raises(PairError, match=rf"large/{part}.*{tensor}.*shape"):
        network_of(part).load()


@pytest.mark.parametrize("name", ["shared.weight", "encoder.embed_tokens.weight"])
def test_tied_embedding_may_be_saved_under_either_name(large, edit_weights, network_of, name):
    expected = answer_of(network_of("text_encoder_3"))
    edit_weights(
        large / "text_encoder_3",
        lambda tensors: {name if key == "shared.weight" else key: tensor for key, tensor in tensors.items()},
    )
    found = answer_of(network_of("text_encoder_3"))
    assert (found["states"] == expected["states"]).all()


def test_clip_may_be_saved_without_its_prefix(large, edit_weights, network_of):
    expected = answer_of(network_of("text_encoder"))
    edit_weights(
        large / "text_encoder",
        lambda tensors: {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()},
    )
    assert (answer_of(network_of("text_encoder"))["pooled"] == expected["pooled"]).all()


@pytest.mark.parametrize(
    ("part", "setting"),
    [
        ("vae", {"norm_num_groups": 3}),
        ("vae", {"layers_per_block": "one"}),
        ("text_encoder", {"hidden_size": "wide"}),
        ("text_encoder_3", {"num_layers": "two"}),
    ],
)
def test_configuration_the_library_refuses_is_told_by_folder(large, edit, network_of, part, setting):
    edit(large / part / "config.json", **setting)
    with pytest.raises(PairError, match=rf"large/{part}(/config.json)? \S"):
        network_of(part).load()


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_3"])
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", '{"version": "1'),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": 5}}'),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"version": "1'),
    ],
)
def test_garbled_tokenizer_is_told_by_folder(large, file, content, part):
    (large / part / file).write_text(content)
    with pytest.raises(PairError, match=rf"large/{part} cannot be loaded: \S"):
        load_tokenizer(large / part)


def test_long_lists_are_cut():
    assert in_few_words(list("abcde")) == "a, b, c and 2 more"
    assert in_few_words(list("abc")) == "a, b, c"
