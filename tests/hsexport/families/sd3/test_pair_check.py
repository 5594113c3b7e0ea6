import json

import pytest

from hsexport.checkpoints.documents import PairError
from hsexport.families.pair import load_pair


def refuses(large, small, fault):
    with pytest.raises(PairError, match=fault):
        load_pair(str(large), str(small))


def drop(tensors, part):
    return {name: tensor for name, tensor in tensors.items() if part not in name}


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ({"channels": 8}, "differ in latent channels: 4 and 8; a pair shares one latent space"),
        ({"patch_size": 1, "pos_embed_max_size": 16}, "differ in patch size: 2 and 1"),
        ({"joint": 40}, r"differ in text width \(joint_attention_dim\): 32 and 40"),
        ({"pooled": 30}, r"differ in pooled text width \(pooled_projection_dim\): 24 and 30"),
    ],
)
def test_transformers_that_read_different_things_are_refused(tiny, tmp_path, overrides, fault):
    from tiny_pair import make_pipeline

    refuses(tiny[0], make_pipeline(tmp_path, transformer_only=True, **overrides), fault)


def test_swapped_members_are_told_to_swap(tiny, tiny_whole):
    refuses(
        tiny_whole,
        tiny[0],
        rf"large '.*' has [\d,]+ parameters, fewer than small '.*' with [\d,]+; swap them: --large {tiny[0]}",
    )


def test_missing_parts_are_listed(tiny):
    refuses(
        tiny[0] / "transformer",
        tiny[1],
        "neither large '.*' nor small '.*' has vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, scheduler"
        ".*model_index.json",
    )


def test_t5_without_its_tokenizer_is_told(tiny, large, edit):
    edit(large / "model_index.json", tokenizer_3=None)
    refuses(large, tiny[1], "has tokenizer_3;")


def test_vae_of_other_latents_is_refused(tiny, large, edit):
    edit(large / "vae" / "config.json", latent_channels=16)
    refuses(large, tiny[1], "has 16 latent_channels, large '.*' has in_channels 4")


def test_text_encoders_of_other_widths_are_refused(tiny, large, edit):
    edit(large / "text_encoder_2" / "config.json", projection_dim=32)
    refuses(large, tiny[1], "text_encoder_2 together is 40, large '.*' has pooled_projection_dim 24")


def test_t5_of_another_width_is_refused(tiny, large, edit):
    edit(large / "text_encoder_3" / "config.json", d_model=64)
    refuses(large, tiny[1], "d_model of text_encoder_3 is 64, large '.*' has joint_attention_dim 32")


def test_text_encoder_without_its_width_is_told(tiny, large, edit):
    edit(large / "text_encoder" / "config.json", projection_dim=...)
    refuses(large, tiny[1], "text_encoder/config.json has projection_dim None, expected a whole number")


def test_scheduler_that_bends_the_schedule_is_refused(tiny, large, edit):
    edit(large / "scheduler" / "scheduler_config.json", use_dynamic_shifting=True)
    refuses(large, tiny[1], "use_dynamic_shifting = True")


@pytest.mark.parametrize(
    ("field", "value", "fault"), [("shift", 5.0, "3.0 and 5.0"), ("num_train_timesteps", 500, "1000")]
)
def test_schedulers_that_differ_are_refused(tiny, whole, edit, field, value, fault):
    edit(whole / "scheduler" / "scheduler_config.json", **{field: value})
    refuses(tiny[0], whole, rf"schedulers of large and small differ in {field}: {fault}")


def test_vae_configurations_that_differ_are_named_by_key(tiny, whole, edit):
    edit(whole / "vae" / "config.json", scaling_factor=1.25)
    refuses(tiny[0], whole, "VAEs of large and small differ in scaling_factor: 1.5 and 1.25; .*latent space")


def test_vae_settings_without_effect_may_differ(tiny, whole, edit):
    edit(whole / "vae" / "config.json", sample_size=512, force_upcast=False, latents_mean=..., norm_num_groups=4)
    load_pair(str(tiny[0]), str(whole))


def test_weights_of_another_precision_are_told_by_tensor(tiny, whole, edit_weights):
    edit_weights(whole / "vae", lambda tensors: {name: tensor.half() for name, tensor in tensors.items()})
    refuses(tiny[0], whole, rf"tensor \S+ is F32\[\d+\] and F16\[\d+\];.*two precisions.*--small {whole}/transformer")


def test_weights_only_one_has_are_told(tiny, whole, edit_weights):
    edit_weights(whole / "vae", lambda tensors: drop(tensors, "decoder.conv_out.bias"))
    refuses(tiny[0], whole, r"tensor decoder.conv_out.bias is F32\[3\] and absent")


def test_text_encoder_configurations_that_differ_are_named(tiny, whole, edit):
    edit(whole / "text_encoder_2" / "config.json", hidden_act="gelu")
    refuses(tiny[0], whole, "text_encoder_2 of large and small differ in hidden_act: quick_gelu and gelu")


def test_who_wrote_a_text_encoder_does_not_matter(tiny, whole, edit):
    edit(
        whole / "text_encoder" / "config.json", transformers_version="4.40.0", torch_dtype="float32", _name_or_path="x"
    )
    load_pair(str(tiny[0]), str(whole))


def test_tokenizer_settings_that_differ_are_named(tiny, whole, edit):
    edit(whole / "tokenizer_2" / "tokenizer_config.json", pad_token="<|endoftext|>")
    refuses(tiny[0], whole, r"tokenizer_2 of large and small differ in pad_token: '!' and '<\|endoftext\|>'")


def test_vocabularies_that_differ_are_refused(tiny, whole, edit):
    path = whole / "tokenizer_3" / "tokenizer.json"
    model = json.loads(path.read_text())["model"]
    edit(path, model=model | {"vocab": model["vocab"][:-1]})
    refuses(tiny[0], whole, "tokenizer_3 of large and small differ in vocabulary; both must read the same text")


def test_tokenizers_agree_whatever_files_hold_them(tiny, whole, edit):
    directory = whole / "tokenizer"
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]))
    (directory / "merges.txt").write_text("#version: 0.2\n")
    (directory / "tokenizer.json").unlink()
    edit(directory / "tokenizer_config.json", unk_token={"content": "<|endoftext|>", "lstrip": False})
    load_pair(str(tiny[0]), str(whole))
    (directory / "merges.txt").write_text("#version: 0.2\na b\n")
    refuses(tiny[0], whole, "tokenizer of large and small differ in merges")


def test_sentencepiece_models_that_differ_are_refused(large, whole):
    for root, content in ((large, b"one"), (whole, b"two")):
        (root / "tokenizer_3" / "spiece.model").write_bytes(content)
    refuses(large, whole, "tokenizer_3 of large and small differ in sentencepiece model")


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ({"num_layers": 4}, r"\(num_layers\) layers 0-3 have those weights, in its files layers 0, 1 do"),
        ({"num_layers": 1}, r"\(num_layers\) layers 0 have those weights"),
        ({"dual_attention_layers": []}, r"\(dual_attention_layers\) layers none .* in its files layers 0 do"),
        ({"dual_attention_layers": [0, 1]}, r"\(dual_attention_layers\) layers 0, 1 "),
        ({"qk_norm": None}, r"\(qk_norm none\) layers none .* layers 0, 1 do"),
        ({"joint_attention_dim": 64}, r"tensor context_embedder.weight is \[16, 32\], expected \[16, 64\]"),
        ({"pooled_projection_dim": 32}, r"text_embedder.linear_1.weight is \[16, 24\], expected \[16, 32\]"),
        ({"pos_embed_max_size": 16}, r"tensor pos_embed.pos_embed is \[1, 144, 16\], expected \[1, 256, 16\]"),
        ({"in_channels": 8, "out_channels": 8}, r"tensor pos_embed.proj.weight is \[16, 4, 2, 2\], expected \[16, 8"),
    ],
)
def test_configuration_that_is_not_the_weights_is_a_broken_checkpoint(tiny, small, edit, setting, fault):
    edit(small / "transformer" / "config.json", **setting)
    refuses(tiny[0], small, f"is a broken checkpoint.*{fault}")


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("attn.norm_q", r"\(qk_norm rms_norm\)"),
        ("blocks.1.", r"\(num_layers\)"),
        ("proj_out", "proj_out.weight is missing"),
    ],
)
def test_weights_that_are_missing_are_a_broken_checkpoint(tiny, small, edit_weights, part, fault):
    edit_weights(small / "transformer", lambda tensors: drop(tensors, part))
    refuses(tiny[0], small, f"is a broken checkpoint.*{fault}")
