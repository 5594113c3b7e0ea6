import shutil

import pytest

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.source import find_model
from hsexport.families.registry import FAMILIES

PARTS = FAMILIES["sd3"].parts


def test_pipeline_has_every_part(tiny):
    found = find_model(tiny[0], PARTS)
    assert found.transformer == tiny[0] / "transformer"
    assert tuple(found.parts) == PARTS


@pytest.mark.parametrize("inside", ["", "transformer"])
def test_lone_transformer_has_no_parts(tiny, inside):
    found = find_model(tiny[1] / inside, PARTS)
    assert found.transformer == tiny[1] / "transformer"
    assert found.parts == {}


def test_parts_beside_a_transformer_count_without_an_index(large):
    (large / "model_index.json").unlink()
    assert tuple(find_model(large, PARTS).parts) == PARTS


@pytest.mark.parametrize("nothing", [None, [None, None], ...])
def test_part_listed_as_null_is_left_out(large, edit, nothing):
    edit(large / "model_index.json", text_encoder_3=nothing)
    assert "text_encoder_3" not in find_model(large, PARTS).parts


def test_listed_part_without_a_folder_is_named(large):
    shutil.rmtree(large / "tokenizer_2")
    with pytest.raises(PairError, match=r"model_index.json lists tokenizer_2, but the directory has no such folder"):
        find_model(large, PARTS)


def test_pipeline_without_a_transformer_is_named_by_class(large, edit):
    edit(large / "model_index.json", transformer=..., _class_name="StableDiffusionXLPipeline")
    with pytest.raises(PairError, match=r"is a StableDiffusionXLPipeline without a transformer"):
        find_model(large, PARTS)


def test_empty_directory_is_told_what_was_looked_for(tmp_path):
    with pytest.raises(PairError, match=r"holds no model: found neither model_index.json nor transformer/config.json"):
        find_model(tmp_path, PARTS)


def test_file_is_a_transformer_alone_whatever_lies_beside_it(large):
    (large / "sd3.5_large.safetensors").touch()
    found = find_model(large / "sd3.5_large.safetensors", PARTS)
    assert (found.transformer, found.parts) == (large / "sd3.5_large.safetensors", {})


def test_directory_of_a_single_file_is_told_to_give_the_file(tmp_path):
    (tmp_path / "sd3.5_large.safetensors").touch()
    with pytest.raises(PairError, match=r"holds no model.*or a single-file checkpoint: .*/sd3.5_large.safetensors"):
        find_model(tmp_path, PARTS)


@pytest.mark.parametrize(("text", "fault"), [("{", "is not JSON"), ("[]", "holds a list, expected an object")])
def test_garbled_index_is_named(large, text, fault):
    (large / "model_index.json").write_text(text)
    with pytest.raises(PairError, match=rf"model_index.json {fault}"):
        find_model(large, PARTS)
