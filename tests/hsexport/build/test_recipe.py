import json
import shutil
from pathlib import Path

import pytest

from hsexport.build.recipe import recipe_for, recipe_from_pair
from hsexport.build.request import BuildRequest, RecipeError
from hsexport.checkpoints.documents import PairError
from hsexport.families.pair import load_pair
from hsruntime.schedule.schedule import ScheduleError


@pytest.fixture
def large(tiny_pair_dirs, tmp_path):
    """A copy of the tiny pair's large member."""
    return Path(shutil.copytree(tiny_pair_dirs[0], tmp_path / "large"))


@pytest.fixture(scope="module")
def pair(tiny_pair_dirs):
    return load_pair(*map(str, tiny_pair_dirs))


def recipe(pair, **request):
    return recipe_from_pair(pair, BuildRequest("large", "small", Path("out"), Path("cache"), **request))


def recipe_of(large):
    return recipe(load_pair(str(large), str(large)))


def edit(path, **changes):
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not ...}))


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, 28),
        ({"steps": 12}, 12),
        ({"schedule": "large"}, 28),
        ({"schedule": "large:10,small:5"}, 15),
        ({"schedule": "large:10,small:5", "steps": 15}, 15),
    ],
)
def test_default_steps_are_those_of_the_schedule(pair, request_, expected):
    assert recipe(pair, **request_).facts.defaults.steps == expected


def test_steps_that_contradict_the_schedule_are_refused(pair):
    with pytest.raises(ScheduleError, match="has 15 steps, 40 were asked for"):
        recipe(pair, schedule="large:10,small:5", steps=40)


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(pair, steps):
    with pytest.raises(ScheduleError, match=f"{steps} steps are too few"):
        recipe(pair, steps=steps)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), float("-inf")])
def test_guidance_must_be_finite(pair, scale):
    with pytest.raises(RecipeError, match=f"--guidance-scale {scale} is not"):
        recipe(pair, guidance_scale=scale)


@pytest.mark.parametrize("length", ["77", [], True, 0, -1, float("inf"), float("nan")])
def test_tokenizer_length_in_words_is_told(large, length):
    edit(large / "tokenizer" / "tokenizer_config.json", model_max_length=length)
    with pytest.raises(PairError, match=r"tokenizer_config.json has model_max_length .*, expected a number of tokens"):
        recipe_of(large)


@pytest.mark.parametrize("t5_length", [10, 300])
def test_text_is_as_long_without_t5_as_with_it(large, t5_length):
    edit(large / "tokenizer_3" / "tokenizer_config.json", model_max_length=t5_length)
    pair = load_pair(str(large), str(large))
    whole, without = (recipe(pair, without=choice) for choice in ((), ("t5",)))
    assert [slot.engine for slot in without.facts.slots] == ["text_encoder", "text_encoder_2"]
    assert [r.facts.text_tokens - r.facts.slots[0].length for r in (whole, without)] == [min(t5_length, 256)] * 2
    assert whole.facts.text_tokens == without.facts.text_tokens


def test_pair_that_has_no_t5_may_leave_it_out(large):
    edit(large / "model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])
    for part in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(large / part)
    pair = load_pair(str(large), str(large))
    found = [recipe(pair, without=choice).facts for choice in ((), ("t5",))]
    assert [facts.text_tokens - facts.slots[0].length for facts in found] == [256, 256]


@pytest.mark.parametrize("length", [..., None, 10**30, 1e30])
def test_tokenizer_without_a_length_takes_the_encoders(large, length):
    edit(large / "tokenizer" / "tokenizer_config.json", model_max_length=length)
    assert recipe_of(large).facts.slots[0].length == 12


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "projection_dim"])
@pytest.mark.parametrize("value", [..., "8", 0])
def test_text_encoder_setting_that_is_no_number_is_told(large, key, value):
    edit(large / "text_encoder" / "config.json", **{key: value})
    with pytest.raises(PairError, match=rf"text_encoder/config.json has {key} .*, expected a whole number above zero"):
        recipe_of(large)


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_3", "vae"])
def test_configuration_that_is_no_object_is_told(large, part):
    (large / part / "config.json").write_text("[]")
    with pytest.raises(PairError, match=rf"{part}/config.json holds a list, expected an object"):
        recipe_of(large)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_cut_tokenizer_file_is_told(large, file):
    path = large / "tokenizer" / file
    path.write_text(path.read_text()[:50])
    with pytest.raises(PairError, match="large/tokenizer"):
        recipe_of(large)


@pytest.mark.parametrize("content", ["{}", "[]"])
def test_empty_tokenizer_is_told(large, content):
    (large / "tokenizer" / "tokenizer.json").write_text(content)
    with pytest.raises(PairError, match="large/tokenizer"):
        recipe_of(large)


def test_tokenizer_without_settings_is_told(large):
    (large / "tokenizer_3" / "tokenizer_config.json").unlink()
    with pytest.raises(PairError, match=r"tokenizer_config.json cannot be read: No such file"):
        recipe_of(large)


def test_pad_token_the_encoder_does_not_know_is_told(large):
    edit(large / "tokenizer" / "tokenizer_config.json", pad_token="never seen")
    with pytest.raises(PairError, match=r"tokenizer pads with token \d+, expected one of the text encoder's \d+"):
        recipe_of(large)


def test_missing_pad_token_is_told(large):
    (large / "tokenizer" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(PairError, match=r"tokenizer pads with no token"):
        recipe_of(large)


def test_max_sequence_length_is_the_longest_encoders(tiny_pair_dirs, tmp_path):
    large, small = map(str, tiny_pair_dirs)

    def side(longest):
        request = BuildRequest(
            large=large, small=small, out=tmp_path / "b", cache=tmp_path / "c", max_sequence_length=longest
        )
        return recipe_for(request).facts.text["text"]

    stated, shorter = side(None), side(5)
    assert [slot.length for slot in shorter.encoders] == [*(slot.length for slot in stated.encoders[:-1]), 5]
    assert stated.tokens - shorter.tokens == stated.encoders[-1].length - 5
