import pytest

from hsexport.checkpoints.documents import PairError
from hsexport.families.pair import load_pair

WEIGHED = ["vae", "text_encoder", "text_encoder_2", "text_encoder_3"]
VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "spiece.model")


def refuses(large, small, fault):
    with pytest.raises(PairError, match=fault):
        load_pair(str(large), str(small))


def drop(part):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


@pytest.mark.parametrize("part", WEIGHED)
def test_truncated_weights_of_a_shared_part_are_told(tiny, large, part):
    (file,) = (large / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    refuses(large, tiny[1], rf"large/{part}/{file.name} is truncated.*download or save the model again")


@pytest.mark.parametrize("part", WEIGHED)
def test_weights_of_a_shared_part_must_be_there(tiny, large, part):
    (file,) = (large / part).glob("*.safetensors")
    file.unlink()
    refuses(large, tiny[1], rf"large/{part} holds no weights")


def test_parts_that_larges_outvote_are_checked_too(tiny, whole):
    (file,) = (whole / "text_encoder").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    refuses(tiny[0], whole, r"whole/text_encoder/model.safetensors is truncated")


@pytest.mark.parametrize(
    ("part", "tensor", "fault"),
    [
        ("vae", "decoder.conv_in.weight", "lacks decoder.conv_in.weight"),
        ("text_encoder_2", "text_projection.weight", "lacks text_projection.weight"),
        ("text_encoder_3", "shared.weight", "lacks shared.weight or encoder.embed_tokens.weight"),
        ("text_encoder", "layers.1.", r"\(num_hidden_layers\) it has 2 layers, in its files there are 1"),
        ("text_encoder_3", "block.1.", r"\(num_layers\) it has 2 layers, in its files there are 1"),
    ],
)
def test_weights_of_another_model_are_a_broken_checkpoint(tiny, large, edit_weights, part, tensor, fault):
    edit_weights(large / part, drop(tensor))
    refuses(large, tiny[1], rf"large/{part} is a broken checkpoint.*{fault}")


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2", "tokenizer_3"])
@pytest.mark.parametrize("left", [None, "vocab.json"])
def test_tokenizer_without_a_vocabulary_is_told(tiny, large, part, left):
    for name in VOCABULARIES:
        (large / part / name).unlink(missing_ok=True)
    if left:
        (large / part / left).write_text("{}")
    refuses(
        large, tiny[1], rf"large/{part} holds no vocabulary, expected one of tokenizer.json, vocab.json with merges"
    )


@pytest.mark.parametrize("content", ['{"model": null}', '{"model": {"vocab": {}, "merges": 5}}', "{}", '{"mod', "[]"])
def test_garbled_tokenizers_are_told_where_two_are_compared(tiny, whole, content):
    (whole / "tokenizer" / "tokenizer.json").write_text(content)
    refuses(tiny[0], whole, r"whole/tokenizer/tokenizer.json (holds|is not JSON)")


def test_merges_that_are_not_text_are_told(tiny, whole):
    (whole / "tokenizer" / "merges.txt").write_bytes(b"\xff\xfe\x00")
    refuses(tiny[0], whole, r"tokenizer/merges.txt is not UTF-8 text")


@pytest.mark.parametrize("widths", [[], "8", [8, "8"], [0], None])
def test_vae_without_widths_is_told(tiny, large, edit, widths):
    edit(large / "vae" / "config.json", block_out_channels=widths)
    refuses(large, tiny[1], r"vae has block_out_channels .*, expected a list of widths")
