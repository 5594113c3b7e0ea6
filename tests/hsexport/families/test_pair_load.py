import subprocess
import sys

import pytest

from hsexport.checkpoints import source
from hsexport.checkpoints.documents import PairError
from hsexport.families.pair import load_pair

BLOCKED = """
import sys
for name in ("torch", "diffusers", "transformers", "huggingface_hub"):
    sys.modules[name] = None
from hsexport.families.pair import load_pair
print(load_pair(*sys.argv[1:]).small.parameters)
"""


def test_pipeline_and_lone_transformer_make_a_pair(tiny):
    pair = load_pair(*map(str, tiny))
    assert (pair.large.role, pair.large.source, pair.small.role) == ("large", str(tiny[0]), "small")
    assert pair.small.config.dual_attention_layers == (0,)
    assert pair.large.config.width == 24
    assert pair.shared.keys() == {
        "vae", "text_encoder", "text_encoder_2", "text_encoder_3",
        "tokenizer", "tokenizer_2", "tokenizer_3", "scheduler",
    }  # fmt: skip
    scheduler, vae = pair.parts["scheduler"], pair.parts["vae"]
    assert (scheduler.shift, scheduler.num_train_timesteps) == (3.0, 1000)
    assert (vae.scale, vae.latent_channels) == (2, 4)
    assert (vae.scaling_factor, vae.shift_factor) == (1.5, 0.06)


def test_parameters_are_those_torch_counts(tiny):
    from diffusers import SD3Transformer2DModel

    pair = load_pair(*map(str, tiny))
    model = SD3Transformer2DModel.from_pretrained(tiny[0] / "transformer")
    assert pair.large.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_two_whole_pipelines_share_larges_parts(tiny, tiny_whole):
    pair = load_pair(str(tiny[0]), str(tiny_whole))
    assert all(path.parent == tiny[0] for path in pair.shared.values())


def test_no_weight_is_read(tiny, tiny_whole, monkeypatch):
    monkeypatch.setattr("hsexport.checkpoints.shards.chunks_of", None)
    load_pair(str(tiny[0]), str(tiny_whole))


def test_small_may_be_the_one_that_brings_the_parts(large, whole):
    pair = load_pair(str(large / "transformer"), str(whole))
    assert pair.shared["vae"] == whole / "vae"


def test_one_model_may_take_both_places(tiny):
    pair = load_pair(str(tiny[0]), str(tiny[0]))
    assert pair.large.parameters == pair.small.parameters


def test_t5_may_be_left_out(tiny, large, edit):
    edit(large / "model_index.json", text_encoder_3=[None, None], tokenizer_3=None)
    assert not {"text_encoder_3", "tokenizer_3"} & load_pair(str(large), str(tiny[1])).shared.keys()


def test_weights_of_a_part_left_out_need_not_be_there(tiny, large):
    (file,) = (large / "text_encoder_3").glob("*.safetensors")
    file.unlink()
    with pytest.raises(PairError, match="text_encoder_3 holds no weights"):
        load_pair(str(large), str(tiny[1]))
    assert "text_encoder_3" in load_pair(str(large), str(tiny[1]), ("text_encoder_3",)).shared


def test_demo_names_the_directories_inside_the_package(tiny, monkeypatch):
    monkeypatch.setattr(source, "DEMO", tiny[0].parent)
    assert load_pair("demo", "demo").small.directory.transformer == tiny[1] / "transformer"


def test_shipped_demo_is_a_sound_pair():
    if not source.DEMO.joinpath("large", "model_index.json").is_file():
        pytest.skip("the demo pair is not in this checkout")
    assert load_pair("demo", "demo").parts["vae"].scale == 8


def test_loading_needs_neither_torch_nor_diffusers(tiny):
    done = subprocess.run([sys.executable, "-c", BLOCKED, *map(str, tiny)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_missing_demo_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "DEMO", tmp_path)
    with pytest.raises(PairError, match=r"demo pair is not in this installation.*reinstall"):
        load_pair("demo", "demo")
