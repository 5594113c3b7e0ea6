"""Quantised single files and folders: every number as another reader has it, and what the graph passes may keep."""

import json
import shutil

import gguf
import ml_dtypes
import numpy as np
import pytest
import torch
from quantised_files import (
    FP8_WRITERS,
    Q,
    by_gguf,
    by_torch,
    llama_names,
    stability_twin,
    state_of,
    transformers_names,
    write_fp8,
    write_gguf,
    write_scaled_fp8,
)
from safetensors.torch import load_file, save_file
from single_file_twin import PREFIX
from tiny_pair import make_pipeline

from hsexport.build.recipe import recipe_from_pair
from hsexport.build.request import BuildRequest
from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.shards import digest_of, mark_of
from hsexport.checkpoints.weights import changed, stored
from hsexport.families.agreement import check_same_weights
from hsexport.families.pair import load_pair, quantised_members, read_member
from hsexport.families.sd3.encoders import text_encoder_networks
from hsexport.families.sd3.family import Sd3
from hsexport.families.sd3.t5_gguf import part_headers, transformers_name
from hsexport.families.sd3.weights import EMBEDDINGS

read_transformer = Sd3().read_transformer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A pipeline of SD3.5's kind whose widths are whole blocks of 32 numbers, and some of 256."""
    options = {"layers": 2, "heads": 8, "dual_layers": (0,), "pooled": 32, "sample_size": 24}
    return make_pipeline(tmp_path_factory.mktemp("whole") / "large", **options)


@pytest.fixture(scope="module")
def state(whole):
    """Its transformer by Stability's names."""
    return stability_twin(whole / "transformer")


WRITERS = {name: (write, by_torch) for name, write in FP8_WRITERS.items()} | {
    "e5m2": (
        lambda state, file: write_fp8(
            state, file.with_suffix(".safetensors"), of=torch.float8_e5m2, rest=torch.float32
        ),
        by_torch,
    ),
    "gguf": (lambda state, file: write_gguf(state, file.with_suffix(".gguf")), by_gguf),
    "gguf, reshaped": (
        lambda state, file: write_gguf(state, file.with_suffix(".gguf"), kinds=(Q.Q4_K, Q.Q8_0), reshaped=RESHAPED),
        by_gguf,
    ),
    "gguf of stable-diffusion.cpp": (
        lambda state, file: write_gguf({PREFIX + n: t for n, t in state.items()}, file.with_suffix(".gguf")),
        by_gguf,
    ),
}
RESHAPED = ("joint_blocks.0.x_block.attn.qkv.weight", "joint_blocks.1.context_block.adaLN_modulation.1.weight")


@pytest.mark.parametrize("kind", WRITERS)
def test_every_number_is_what_another_reader_makes_of_it(whole, state, tmp_path, kind):
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    write, read = WRITERS[kind]
    file = write(state, tmp_path / "sd3")
    expected = convert_sd3_transformer_checkpoint_to_diffusers(read(file))
    config, tensors = read_transformer(file)
    assert config == read_transformer(whole / "transformer")[0]
    assert tensors.keys() == expected.keys()
    for name, header in tensors.items():
        weight, numbers = stored(header), expected[name].numpy()
        assert weight.shape == numbers.shape
        np.testing.assert_array_equal(weight.read().astype(np.float32), numbers, name)
        if weight.quantised:
            assert weight.stored is None
            values, scales = weight.quantised.read()
            assert values.shape == numbers.shape and scales.dtype == np.float32
            assert values.dtype == (ml_dtypes.float8_e4m3fn if weight.quantised.kind == "fp8" else np.int8)
            assert scales.shape == (() if weight.quantised.kind == "fp8" else (len(values), values.shape[1] // 32))
            each = scales if scales.ndim == 0 else np.repeat(scales, 32, axis=1)
            np.testing.assert_array_equal(values.astype(np.float32) * each, numbers, name)
    kinds = {stored(header).quantised.kind for header in tensors.values() if stored(header).quantised}
    assert kinds == ({"int8"} if "gguf" in kind else set() if kind == "e5m2" else {"fp8"})


def test_parameters_are_those_of_the_original(whole, state, tmp_path):
    files = [write_gguf(state, tmp_path / "x.gguf"), write_scaled_fp8(state, tmp_path / "x.safetensors")]
    expected = read_member("large", str(whole)).parameters
    assert [read_member("large", str(file)).parameters for file in files] == [expected] * 2


def test_digest_and_mark_follow_bytes_and_scales(state, tmp_path):
    file = write_scaled_fp8(state, tmp_path / "x.safetensors")
    before = read_transformer(file)[1]
    told = digest_of(before), mark_of(before)
    tensors = load_file(file)
    tensors["joint_blocks.0.x_block.attn.qkv.scale_weight"] *= 2
    save_file(tensors, tmp_path / "y.safetensors")
    after = read_transformer(tmp_path / "y.safetensors")[1]
    assert digest_of(after) != told[0] and mark_of(after) != told[1]
    prefixed = read_transformer(write_scaled_fp8(state, tmp_path / "z.safetensors", prefix=PREFIX))[1]
    assert (digest_of(prefixed), mark_of(prefixed)) == told


def test_changed_weights_are_quantised_no_more(state, tmp_path):
    tensors = read_transformer(write_fp8(state, tmp_path / "x.safetensors"))[1]
    weight = stored(tensors["proj_out.weight"])
    assert weight.quantised and changed(weight, weight.shape, np.negative).quantised is None


def test_table_without_its_leading_extent_is_the_same_table(state, tmp_path):
    """Ggml's own tools leave out extents of 1 in front."""
    flat = {name: tensor[0] if name == "pos_embed" else tensor for name, tensor in state.items()}
    files = [write_gguf(each, tmp_path / f"{n}.gguf", kinds=(Q.F16,)) for n, each in enumerate((state, flat))]
    tables = [read_transformer(file)[1]["pos_embed.pos_embed"] for file in files]
    assert tables[0].shape == tables[1].shape
    np.testing.assert_array_equal(stored(tables[0]).read(), stored(tables[1]).read())


@pytest.fixture
def texts(whole, tmp_path):
    """A copy of the pipeline, its T5 to be written anew."""
    return shutil.copytree(whole, tmp_path / "copy")


def t5_of(pipeline, kind):
    """The T5 in its folder, written again; what another reader makes of it, by transformers' names."""
    folder = pipeline / "text_encoder_3"
    (file,) = folder.glob("*.safetensors")
    original = load_file(file)
    file.unlink()
    if kind == "gguf":
        written = write_gguf(llama_names(original), folder / "t5xxl.gguf", "t5encoder", (Q.Q8_0, Q.Q4_0))
        return transformers_names(by_gguf(written), original)
    write = write_scaled_fp8 if kind == "scaled" else write_fp8
    return by_torch(write(original, file))


@pytest.mark.parametrize("kind", ["fp8", "scaled", "gguf"])
def test_t5_is_read_under_both_names_of_its_embeddings(texts, kind):
    expected = t5_of(texts, kind)
    pair = load_pair(str(texts), str(texts))
    recipe = recipe_from_pair(pair, BuildRequest(str(texts), str(texts), texts, texts))
    (weights,) = (n.weights for n in text_encoder_networks(recipe) if n.name == "text_encoder_3")
    assert {f"model.{name}" for name in EMBEDDINGS} < weights.keys()
    assert weights[f"model.{EMBEDDINGS[0]}"] is weights[f"model.{EMBEDDINGS[1]}"]
    for name, numbers in expected.items():
        np.testing.assert_array_equal(weights[f"model.{name}"].read().astype(np.float32), numbers.numpy(), name)
    types = {"fp8": "F8_E4M3", "scaled": "F8_E4M3", "gguf": "Q8_0"}
    ((part, counts),) = quantised_members(pair)
    assert part == "text_encoder_3" and types[kind] in counts
    assert list(quantised_members(pair, ("text_encoder_3",))) == []


def test_whole_t5_leaves_its_decoder_behind(texts):
    folder = texts / "text_encoder_3"
    (file,) = folder.glob("*.safetensors")
    names = llama_names(load_file(file))
    decoder = {"dec.blk.0.attn_q.weight": torch.ones(32, 32), "output.weight": torch.ones(32, 32)}
    write_gguf(names | decoder, folder / "t5.gguf", "t5")
    file.unlink()
    assert part_headers(folder, "t5").keys() == {*map(transformers_name, names)}


def test_every_name_of_llama_is_the_one_that_its_own_table_has():
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 2)
    ours = [*(f"enc.blk.1.{module}" for module in ("attn_q", "attn_k", "attn_v", "attn_o", "attn_rel_b", "attn_norm"))]
    ours += [*(f"enc.blk.1.ffn_{module}" for module in ("gate", "up", "down", "norm")), "token_embd", "enc.output_norm"]
    for name in ours:
        assert names.get_name(transformers_name(f"{name}.weight").removesuffix(".weight")) == name


def test_one_t5_in_two_places_must_hold_the_same(texts, tmp_path):
    t5_of(texts, "gguf")
    other = shutil.copytree(texts, tmp_path / "other")
    check_same_weights(load_pair(str(texts), str(other)))
    (file,) = (other / "text_encoder_3").glob("*.gguf")
    data = bytearray(file.read_bytes())
    data[-40] ^= 1
    file.write_bytes(data)
    with pytest.raises(PairError, match="text_encoder_3 of large and small differ in their weights"):
        check_same_weights(load_pair(str(texts), str(other)))


def test_scales_alone_tell_two_t5_apart(texts, tmp_path):
    t5_of(texts, "scaled")
    other = shutil.copytree(texts, tmp_path / "other")
    check_same_weights(load_pair(str(texts), str(other)))
    (file,) = (other / "text_encoder_3").glob("*.safetensors")
    tensors = load_file(file)
    tensors["encoder.block.0.layer.0.SelfAttention.q.scale_weight"] *= 2
    save_file(tensors, file)
    with pytest.raises(PairError, match=r"differ in .*: tensor encoder.block.0.layer.0.SelfAttention.q.weight"):
        check_same_weights(load_pair(str(texts), str(other)))


def test_folder_of_diffusers_in_fp8_is_read(texts):
    folder = texts / "transformer"
    (file,) = folder.glob("*.safetensors")
    write_fp8(state_of(folder), file)
    expected, tensors = by_torch(file), read_transformer(folder)[1]
    assert all(np.array_equal(stored(tensors[n]).read().astype(np.float32), t.numpy()) for n, t in expected.items())


def test_what_is_quantised_is_told_by_member(whole, state, tmp_path):
    file = write_gguf(state, tmp_path / "x.gguf", kinds=(Q.Q8_0,))
    pair = load_pair(str(file), str(whole))
    ((name, counts),) = quantised_members(pair)
    held = [header for header in pair.large.tensors.values() if header.dtype == "Q8_0"]
    assert (name, counts) == ("large", f"{len(held)} tensors Q8_0")


def spoilt(change):
    """A scaled file with something changed."""

    def write(state, file):
        tensors = load_file(write_scaled_fp8(state, file))
        change(tensors)
        save_file(tensors, file)

    return write


QKV = "joint_blocks.0.x_block.attn.qkv"
HOSTILE = {
    "scale missing": (
        lambda t: t.pop(f"{QKV}.scale_weight"),
        rf"tensor {QKV}.weight is scaled fp8, and its scale {QKV}.scale_weight is missing",
    ),
    "weight missing": (lambda t: t.pop(f"{QKV}.weight"), rf"{QKV}.scale_weight is a scale without its weight"),
    "NaN": (lambda t: t[f"{QKV}.scale_weight"].fill_(float("nan")), rf"{QKV}.scale_weight is nan, expected a scale"),
    "infinite": (lambda t: t[f"{QKV}.scale_weight"].fill_(float("inf")), rf"{QKV}.scale_weight is inf"),
    "zero": (lambda t: t[f"{QKV}.scale_weight"].fill_(0), rf"{QKV}.scale_weight is 0.0"),
    "negative": (lambda t: t[f"{QKV}.scale_weight"].fill_(-1), rf"{QKV}.scale_weight is -1.0"),
    "scale by row": (
        lambda t: t.update({f"{QKV}.scale_weight": torch.ones(192)}),
        rf"{QKV}.scale_weight is F32\[192\], expected one number",
    ),
    "scale of integers": (
        lambda t: t.update({f"{QKV}.scale_weight": torch.ones(1, dtype=torch.int32)}),
        rf"{QKV}.scale_weight is I32\[1\], expected one number",
    ),
    "scale of bf16": (
        lambda t: t.update({f"{QKV}.weight": torch.zeros(192, 64, dtype=torch.bfloat16)}),
        rf"a scale for {QKV}.weight, which is BF16, expected fp8",
    ),
    "two scales": (lambda t: t.update({f"{QKV}.weight_scale": torch.ones(())}), "is a second scale"),
    "another format": (
        lambda t: t.update({f"{QKV}.comfy_quant": torch.tensor([*b'{"format": "nvfp4"}'], dtype=torch.uint8)}),
        rf"{QKV}.comfy_quant says format 'nvfp4', expected float8_e4m3fn or float8_e5m2",
    ),
    "no format": (
        lambda t: t.update({f"{QKV}.comfy_quant": torch.tensor([255, 1], dtype=torch.uint8)}),
        rf"{QKV}.comfy_quant does not name a format",
    ),
    "scale of scales": (lambda t: t.update({f"{QKV}.weight_scale_2": torch.ones(())}), "of a kind .* that is not read"),
    "integers": (
        lambda t: t.update({f"{QKV}.weight": torch.zeros(192, 64, dtype=torch.int8)}),
        rf"tensor {QKV}.weight is I8, expected a float type",
    ),
    "no numbers": (
        lambda t: t[f"{QKV}.weight"].view(torch.uint8).view(-1)[:2].fill_(0xFF),
        r"tensor transformer_blocks.0.attn.to_q.weight holds 2 numbers that are not finite",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_no_scaled_file_has_is_told_in_a_line(state, tmp_path, kind):
    change, words = HOSTILE[kind]
    spoilt(change)(state, tmp_path / "x.safetensors")
    with pytest.raises(PairError, match=words) as raised:
        digest_of(read_transformer(tmp_path / "x.safetensors")[1])
    assert "\n" not in str(raised.value) and "x.safetensors" in str(raised.value) and "; " in str(raised.value)


def test_newer_layer_without_its_scale_is_told(state, tmp_path):
    file = write_scaled_fp8(state, tmp_path / "x.safetensors", new=True)
    tensors = load_file(file)
    del tensors[f"{QKV}.weight_scale"]
    save_file(tensors, file)
    with pytest.raises(PairError, match=rf"tensor {QKV}.weight is scaled fp8, and its scale .* is missing"):
        read_transformer(file)


def test_architecture_of_another_model_is_told(state, texts, tmp_path):
    file = write_gguf(state, tmp_path / "x.gguf", "flux")
    with pytest.raises(PairError, match=r"x\.gguf is a model of architecture 'flux', expected sd3; give a GGUF"):
        read_transformer(file)
    t5_of(texts, "gguf")
    (file,) = (texts / "text_encoder_3").glob("*.gguf")
    write_gguf(state, file, "llama")
    with pytest.raises(PairError, match=r"t5xxl\.gguf is a model of architecture 'llama', expected t5encoder or t5"):
        load_pair(str(texts), str(texts))


def test_gguf_where_none_is_read_is_told(texts, state):
    for folder in (texts / "text_encoder", texts / "transformer"):
        next(folder.glob("*.safetensors")).unlink()
        write_gguf(state, folder / "x.gguf")
    with pytest.raises(PairError, match=r"transformer/x\.gguf is a GGUF file, expected safetensors"):
        read_transformer(texts / "transformer")
    with pytest.raises(PairError, match=r"text_encoder/x\.gguf is a GGUF file, expected safetensors"):
        part_headers(texts / "text_encoder", "clip")


def test_two_gguf_files_are_one_too_many(texts):
    t5_of(texts, "gguf")
    (file,) = (texts / "text_encoder_3").glob("*.gguf")
    (file.parent / "other.gguf").write_bytes(file.read_bytes())
    with pytest.raises(PairError, match=r"text_encoder_3 holds 2 GGUF files, expected one"):
        load_pair(str(texts), str(texts))


def test_blocks_that_cross_the_cut_are_told(tmp_path):
    """Of a modulation whose halves are twelve blocks and a half each, in a tensor that was reshaped."""
    options = {"heads": 5, "head_size": 4, "sample_size": 24, "transformer_only": True}
    state = stability_twin(make_pipeline(tmp_path / "odd", **options) / "transformer")
    name = "final_layer.adaLN_modulation.1.weight"
    file = write_gguf(state, tmp_path / "x.gguf", kinds=(Q.Q5_0,), reshaped=(name,), row=32)
    with pytest.raises(PairError, match=rf"tensor {name} is Q5_0\[40, 20\], whose blocks cannot be cut into 2 tensors"):
        read_transformer(file)


def test_quantisation_config_of_other_kinds_is_still_refused(texts):
    path = texts / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"bits": 4}}))
    with pytest.raises(PairError, match="quantised checkpoints are not read"):
        read_transformer(texts / "transformer")
