import errno

import pytest
import torch

from hsexport.pair import PairError
from hsexport.pair.loading import in_few_words, load_tokenizer, load_whole


def model_class(part):
    import diffusers
    import transformers

    return {
        "transformer": diffusers.SD3Transformer2DModel,
        "vae": diffusers.AutoencoderKL,
        "text_encoder": transformers.CLIPTextModelWithProjection,
        "text_encoder_3": transformers.T5EncoderModel,
    }[part]


PARTS = {
    "transformer": "transformer_blocks.0.ff.net.0.proj.weight",
    "vae": "decoder.mid_block.resnets.0.conv1.weight",
    "text_encoder": "text_model.encoder.layers.0.mlp.fc1.weight",
    "text_encoder_3": "encoder.block.0.layer.1.DenseReluDense.wo.weight",
}


@pytest.mark.parametrize("part", PARTS)
def test_whole_checkpoint_loads(tiny, part):
    assert load_whole(model_class(part), tiny[0] / part).config


@pytest.mark.parametrize(("part", "tensor"), PARTS.items())
def test_tensor_that_would_be_drawn_at_random_is_named(large, edit_weights, part, tensor):
    edit_weights(large / part, lambda tensors: {name: tensors[name] for name in tensors if name != tensor})
    with pytest.raises(PairError, match=rf"large/{part} is a broken checkpoint: it lacks {tensor}; download or save"):
        load_whole(model_class(part), large / part)


@pytest.mark.parametrize(("part", "tensor"), PARTS.items())
def test_tensor_of_another_shape_is_named(large, edit_weights, part, tensor):
    edit_weights(large / part, lambda tensors: tensors | {tensor: torch.zeros(3, 5)})
    options = {"ignore_mismatched_sizes": True} if part.startswith("text") else {}
    with pytest.raises(PairError, match=rf"large/{part}.*{tensor}.*shape"):
        load_whole(model_class(part), large / part, **options)


@pytest.mark.parametrize("name", ["shared.weight", "encoder.embed_tokens.weight"])
def test_tied_embedding_may_be_saved_under_either_name(large, edit_weights, name):
    edit_weights(
        large / "text_encoder_3",
        lambda tensors: {name if key == "shared.weight" else key: tensor for key, tensor in tensors.items()},
    )
    model = load_whole(model_class("text_encoder_3"), large / "text_encoder_3")
    assert model.shared.weight is model.encoder.embed_tokens.weight


@pytest.mark.parametrize(
    ("part", "setting"),
    [
        ("vae", {"norm_num_groups": 3}),
        ("vae", {"layers_per_block": "one"}),
        ("text_encoder", {"hidden_size": "wide"}),
        ("text_encoder_3", {"num_layers": "two"}),
    ],
)
def test_configuration_the_library_refuses_is_told_by_folder(large, edit, part, setting):
    edit(large / part / "config.json", **setting)
    with pytest.raises(PairError, match=rf"large/{part} cannot be loaded: \S"):
        load_whole(model_class(part), large / part)


@pytest.mark.parametrize("part", PARTS)
def test_configuration_that_is_no_object_is_told_by_folder(large, part):
    (large / part / "config.json").write_text("[]")
    with pytest.raises(PairError, match=rf"large/{part} cannot be loaded: \S"):
        load_whole(model_class(part), large / part)


def test_full_disk_is_not_called_a_broken_checkpoint(tiny):
    class Full:
        @staticmethod
        def from_pretrained(folder, **options):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        load_whole(Full, tiny[0] / "vae")


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
