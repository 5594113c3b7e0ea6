import inspect
import json

import pytest

from hsexport.checkpoints.documents import PairError
from hsexport.families.sd3.config import TransformerConfig, transformer_config_from
from hsexport.families.sd3.parts import SCHEDULER_OFF, scheduler_config_from, vae_config_from


def write(directory, name, **settings):
    (directory / name).write_text(json.dumps(settings))
    return directory


def transformer(directory, **settings):
    base = {"_class_name": "SD3Transformer2DModel", "pos_embed_max_size": 96}
    return write(directory, "config.json", **(base | settings))


def test_missing_fields_take_diffusers_defaults(tmp_path):
    from diffusers import SD3Transformer2DModel

    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(SD3Transformer2DModel.__init__).parameters.items()
        if name != "self"
    }
    assert transformer_config_from(transformer(tmp_path)) == TransformerConfig(**defaults)


def test_vae_defaults_are_diffusers(tmp_path):
    from diffusers import AutoencoderKL

    config = vae_config_from(write(tmp_path, "config.json", _class_name="AutoencoderKL"))
    signature = inspect.signature(AutoencoderKL.__init__).parameters
    for key, value in config.compared.items():
        default = signature[key].default
        assert value == (list(default) if isinstance(default, tuple) else default), key
    assert (config.scale, config.shift_factor) == (1, 0.0)


def test_out_channels_null_means_the_same(tmp_path):
    assert transformer_config_from(transformer(tmp_path, in_channels=8, out_channels=None)).out_channels == 8


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (
            {"_class_name": "FluxTransformer2DModel"},
            "is a FluxTransformer2DModel, expected SD3Transformer2DModel; hsexport exports the SD3 family",
        ),
        ({"_class_name": None}, "is a model of unnamed class, expected SD3Transformer2DModel"),
        ({"pos_embed_max_size": None}, "has no pos_embed_max_size"),
        ({"pos_embed_max_size": 63}, "pos_embed_max_size 63, too small.*sample_size 128.*64 patches of 2"),
        ({"qk_norm": "layer_norm"}, "unknown qk_norm 'layer_norm'; known: none, rms_norm"),
        ({"out_channels": 32}, "out_channels 32 and in_channels 16, expected the same"),
        ({"caption_projection_dim": 1536}, "caption_projection_dim 1536, expected the width 1152"),
        ({"dual_attention_layers": [0, 18]}, r"dual_attention_layers \[18\], but num_layers is 18"),
        ({"dual_attention_layers": "all"}, "dual_attention_layers 'all', expected a list"),
        ({"num_layers": "18"}, "num_layers '18', expected a whole number above zero"),
        ({"patch_size": 0}, "patch_size 0, expected a whole number above zero"),
        ({"quantization_config": {"bits": 4}}, "quantised checkpoints are not read"),
    ],
)
def test_transformer_fault_is_told(tmp_path, settings, fault):
    with pytest.raises(PairError, match=fault):
        transformer_config_from(transformer(tmp_path, **settings))


def test_missing_config_is_named(tmp_path):
    with pytest.raises(PairError, match=r"config.json cannot be read: No such file"):
        transformer_config_from(tmp_path)


def scheduler(directory, **settings):
    base = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    return write(directory, "scheduler_config.json", **(base | settings))


def test_scheduler_defaults_and_neutral_options_pass(tmp_path):
    config = scheduler_config_from(scheduler(tmp_path, base_shift=0.5, **dict.fromkeys(SCHEDULER_OFF)))
    assert (config.num_train_timesteps, config.shift) == (1000, 1.0)


@pytest.mark.parametrize("option", SCHEDULER_OFF)
def test_scheduler_option_is_named(tmp_path, option):
    with pytest.raises(PairError, match=rf"scheduler_config.json has {option} = 0.5, which hsexport does not do"):
        scheduler_config_from(scheduler(tmp_path, **{option: 0.5}))


def test_other_scheduler_is_named(tmp_path):
    with pytest.raises(PairError, match="is a DDIMScheduler, expected FlowMatchEulerDiscreteScheduler"):
        scheduler_config_from(scheduler(tmp_path, _class_name="DDIMScheduler"))


def test_shift_in_words_is_refused(tmp_path):
    with pytest.raises(PairError, match="has shift 'three', expected a number"):
        scheduler_config_from(scheduler(tmp_path, shift="three"))


def test_vae_of_another_class_is_named(tmp_path):
    with pytest.raises(PairError, match="is a AutoencoderTiny, expected AutoencoderKL"):
        vae_config_from(write(tmp_path, "config.json", _class_name="AutoencoderTiny"))


def test_vae_compares_what_changes_a_latent_only(tmp_path):
    settings = {"_class_name": "AutoencoderKL", "_name_or_path": "x", "sample_size": 1024, "force_upcast": False}
    compared = vae_config_from(write(tmp_path, "config.json", **settings)).compared
    assert not {"_class_name", "_name_or_path", "sample_size", "force_upcast"} & compared.keys()
