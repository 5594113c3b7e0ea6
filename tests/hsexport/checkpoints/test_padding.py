"""The pad token read from files is the one that transformers pads with."""

import json

import pytest
from transformers import AutoTokenizer

from hsexport.checkpoints.source import DEMO
from hsexport.checkpoints.tokenizers import stated_pad_id
from hsexport.families.pair import load_pair

NAMES = "tokenizer", "tokenizer_2", "tokenizer_3"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pair", ["tiny", "demo"])
def test_files_say_what_transformers_says(tiny_pair_dirs, pair, name):
    folder = (tiny_pair_dirs[0] if pair == "tiny" else DEMO / "large") / name
    assert stated_pad_id(folder) == AutoTokenizer.from_pretrained(folder).pad_token_id


def legacy(folder, **settings):
    """As SD3's own CLIP tokenizers lie on the hub: two vocabulary files and no tokenizer.json."""
    vocabulary = {"!": 0, "a": 1, "a</w>": 2, "<|startoftext|>": 3, "<|endoftext|>": 4}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    document = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("pad", ["!", "<|endoftext|>"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_two_vocabulary_files_are_enough(tmp_path, pad, wrapped):
    token = {"content": pad, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    folder = legacy(tmp_path, pad_token=token | {"__type": "AddedToken"} if wrapped else pad)
    assert stated_pad_id(folder) == AutoTokenizer.from_pretrained(folder).pad_token_id == {"!": 0}.get(pad, 4)


@pytest.mark.parametrize("broken", ["unsaid", "unknown", "contradicted", "cut", "absent"])
def test_what_is_in_doubt_is_left_to_transformers(tmp_path, broken):
    folder = legacy(tmp_path, **({} if broken == "unsaid" else {"pad_token": "?" if broken == "unknown" else "!"}))
    if broken == "contradicted":
        (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<|endoftext|>"}))
    if broken == "cut":
        (folder / "vocab.json").write_text('{"!": 0')
    if broken == "absent":
        (folder / "tokenizer_config.json").unlink()
    assert stated_pad_id(folder) is None


def test_a_pair_is_read_without_transformers(tiny_pair_dirs, monkeypatch, tmp_path):
    from hsexport.build import recipe
    from hsexport.build.request import BuildRequest
    from hsexport.checkpoints import tokenizers

    def never(_):
        raise AssertionError

    for module in (recipe, tokenizers):
        monkeypatch.setattr(module, "load_tokenizer", never)
    request = BuildRequest("large", "small", tmp_path, tmp_path)
    made = recipe.recipe_from_pair(load_pair(*map(str, tiny_pair_dirs)), request)
    assert [slot.pad_id for slot in made.facts.slots] == [1, 0, 0]
    with pytest.raises(AssertionError):
        recipe.check_tokenizers(made)
