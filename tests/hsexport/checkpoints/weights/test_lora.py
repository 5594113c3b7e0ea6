"""Adapters against plain torch arithmetic over the modules of a real model."""

import json
import math
import os
import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from single_file_twin import stability_state, write_twin

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.weights import adapter, stored
from hsexport.checkpoints.weights.adapter import AdapterRequest, changeable_from, fused
from hsexport.families.pair import read_member

RANK = 2
QUERY = "transformer_blocks.0.attn.to_q"


def read_adapter(request, member):
    """Of a member without text encoders."""
    changeable = changeable_from(member.tensors, member.family.places(member.config))
    return adapter.read_adapter(request, {}, {member.role: changeable}.__getitem__, str(member))


@pytest.fixture(scope="module")
def large(tiny_pair_dirs):
    """The tiny pair's large member, by its transformer alone."""
    return read_member("large", str(tiny_pair_dirs[0] / "transformer"))


@pytest.fixture(scope="module")
def state(tiny_pair_dirs):
    """Its weights, as torch has them."""
    (file,) = (tiny_pair_dirs[0] / "transformer").glob("*.safetensors")
    return load_file(file)


@pytest.fixture
def write(tmp_path):
    """Writes tensors as a LoRA file."""

    def write_file(tensors, metadata=None, name="style.safetensors"):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / name, metadata)
        return tmp_path / name

    return write_file


def pair_for(weight, seed=0, rank=RANK):
    """Random A and B for a weight, a convolution's in PEFT's shapes."""
    random = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, *weight.shape[1:], generator=random)
    up = torch.randn(len(weight), rank, *[1] * (weight.ndim - 2), generator=random)
    return down, up


def product(down, up):
    return torch.einsum("or,r...->o...", up.flatten(1), down)


def peft(module, weight, prefix="transformer.", **options):
    down, up = pair_for(weight, **options)
    return {f"{prefix}{module}.lora_A.weight": down, f"{prefix}{module}.lora_B.weight": up}


def weights_of(member, *requests):
    adapters = [read_adapter(request, member).updates[member.role] for request in requests]
    return fused({name: stored(header) for name, header in member.tensors.items()}, adapters)


def check_equal(read, expected):
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, expected.numpy(), rtol=1e-5, atol=1e-6)  # two orders of summation in float32


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_weight_is_itself_plus_scale_times_the_product(large, state, write, prefix):
    weight = state[f"{QUERY}.weight"]
    file = write(peft(QUERY, weight, prefix))
    read = weights_of(large, AdapterRequest("large", file, 0.8))
    check_equal(read[f"{QUERY}.weight"].read(), weight + 0.8 * product(*pair_for(weight)))


def test_every_other_weight_stays_the_checkpoints_own(large, state, write):
    read = weights_of(large, AdapterRequest("large", write(peft(QUERY, state[f"{QUERY}.weight"]))))
    assert read.keys() == large.tensors.keys()
    assert [name for name, weight in read.items() if weight.stored is None] == [f"{QUERY}.weight"]
    assert read[f"{QUERY}.weight"].shape == large.tensors[f"{QUERY}.weight"].shape


def test_convolution_is_fused_window_and_all(large, state, write):
    weight = state["pos_embed.proj.weight"]
    assert weight.ndim == 4
    read = weights_of(large, AdapterRequest("large", write(peft("pos_embed.proj", weight))))
    check_equal(read["pos_embed.proj.weight"].read(), weight + product(*pair_for(weight)))


def test_half_precision_is_added_in_float32(large, state, write, tmp_path):
    file = write_twin(Path(large.directory.transformer), tmp_path / "half.safetensors", dtype=torch.bfloat16)
    weight = state[f"{QUERY}.weight"]
    lora = {name: tensor.half() for name, tensor in peft(QUERY, weight).items()}
    read = weights_of(read_member("large", str(file)), AdapterRequest("large", write(lora)))
    down, up = (tensor.half().float() for tensor in pair_for(weight))
    check_equal(read[f"{QUERY}.weight"].read(), weight.bfloat16().float() + product(down, up))


def test_adapters_are_added_one_after_the_other(large, state, write):
    weight = state[f"{QUERY}.weight"]
    files = [write(peft(QUERY, weight, seed=seed), name=f"{seed}.safetensors") for seed in (1, 2)]
    read = weights_of(large, AdapterRequest("large", files[0], 2.0), AdapterRequest("large", files[1], -1.0))
    expected = weight + 2 * product(*pair_for(weight, 1)) - product(*pair_for(weight, 2))
    check_equal(read[f"{QUERY}.weight"].read(), expected)


ALPHAS = {
    "tensor": ({f"transformer.{QUERY}.alpha": torch.tensor(6.0)}, None, 6 / RANK),
    "diffusers": ({}, {"transformer.r": RANK, "transformer.lora_alpha": 5}, 5 / RANK),
    "by module": ({}, {"transformer.lora_alpha": 5, "transformer.alpha_pattern": {"attn.to_q": 8}}, 8 / RANK),
    "rslora": ({}, {"transformer.lora_alpha": 5, "transformer.use_rslora": True}, 5 / math.sqrt(RANK)),
}


@pytest.mark.parametrize("where", ALPHAS)
def test_alpha_counts_wherever_it_is_written(large, state, write, where):
    extra, settings, factor = ALPHAS[where]
    weight = state[f"{QUERY}.weight"]
    metadata = {"lora_adapter_metadata": json.dumps(settings)} if settings else None
    file = write(peft(QUERY, weight) | extra, metadata)
    read = weights_of(large, AdapterRequest("large", file))
    check_equal(read[f"{QUERY}.weight"].read(), weight + factor * product(*pair_for(weight)))


def test_pefts_own_file_takes_alpha_from_the_config_beside_it(large, state, write, tmp_path):
    weight = state[f"{QUERY}.weight"]
    file = write(peft(QUERY, weight, "base_model.model."))
    with pytest.raises(PairError, match=r"adapter_config.json cannot be read"):
        read_adapter(AdapterRequest("large", file), large)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 7}))
    read = weights_of(large, AdapterRequest("large", file))
    check_equal(read[f"{QUERY}.weight"].read(), weight + 7 / RANK * product(*pair_for(weight)))


@pytest.mark.parametrize("style", ["kohya", "comfy"])
def test_lora_over_stabilitys_names_is_the_same_change_of_stabilitys_weights(large, state, write, style):
    """Fused qkv, turned modulations and all: fuse under Stability's names by hand, and compare in those."""
    theirs = {name: weight for name, weight in stability_state(state).items() if name.endswith(".weight")}
    theirs = {name: weight for name, weight in theirs.items() if ".ln_" not in name}
    lora, expected = {}, dict(stability_state(state))
    for seed, (name, weight) in enumerate(theirs.items()):
        module, (down, up) = name.removesuffix(".weight"), pair_for(weight, seed)
        if style == "kohya":
            stem, sides, alpha = "lora_unet_" + module.replace(".", "_"), ("lora_down", "lora_up"), 1.0
            lora[f"{stem}.alpha"] = torch.tensor(alpha)
        else:
            stem, sides, alpha = "diffusion_model." + module, ("lora_A", "lora_B"), RANK
        lora |= {f"{stem}.{sides[0]}.weight": down, f"{stem}.{sides[1]}.weight": up}
        expected[name] = weight + 0.5 * alpha / RANK * product(down, up)
    read = weights_of(large, AdapterRequest("large", write(lora), 0.5))
    found = stability_state({name: torch.from_numpy(np.array(weight.read())) for name, weight in read.items()})
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name].numpy(), tensor.numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


def test_kohyas_names_of_diffusers_modules_are_read(large, state, write):
    weight = state[f"{QUERY}.weight"]
    down, up = pair_for(weight)
    stem = "lora_transformer_" + QUERY.replace(".", "_")
    file = write({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up})
    assert read_adapter(AdapterRequest("large", file), large).updates["large"].keys() == {f"{QUERY}.weight"}


def test_digest_is_of_file_and_scale(large, state, write):
    files = [write(peft(QUERY, state[f"{QUERY}.weight"], seed=seed), name=f"{seed}.safetensors") for seed in (1, 1, 2)]
    digests = [read_adapter(AdapterRequest("large", file), large).digest for file in files]
    assert digests[0] == digests[1] != digests[2]
    assert read_adapter(AdapterRequest("large", files[0], 0.5), large).digest != digests[0]


REFUSED = {
    "text encoder": ({"text_encoder.layers.0.lora_A.weight": 2}, "without a part for the transformer"),
    "kohya's text encoder": ({"lora_te1_x.lora_down.weight": 2}, "without a part for the transformer"),
    "DoRA": ({f"transformer.{QUERY}.lora_magnitude_vector": 1}, r"is a DoRA: it holds transformer"),
    "kohya's DoRA": ({"lora_unet_x.dora_scale": 1}, r"is a DoRA"),
    "LoKr": ({f"transformer.{QUERY}.lokr_w1": 2}, r"is a LoKr: it holds .*; only plain LoRA is fused"),
    "LoHa": ({"lora_unet_x.hada_w1_a": 2}, r"is a LoHa"),
    "bias": ({f"transformer.{QUERY}.lora_B.bias": 1}, rf"holds transformer.{QUERY}.lora_B.bias, which is no LoRA's"),
    "weight": ({f"{QUERY}.weight": 2}, r"to_q.weight, which is no LoRA's; expected MODULE.lora_A.weight"),
    "half": ({f"transformer.{QUERY}.lora_A.weight": 2}, rf"broken LoRA: {QUERY} has one of its two matrices alone"),
    "nothing": ({}, "without a part for the transformer"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_fused_whole_is_refused_by_name(large, write, kind):
    names, fault = REFUSED[kind]
    file = write({name: torch.zeros([RANK] * dimensions) for name, dimensions in names.items()})
    with pytest.raises(PairError, match=fault):
        read_adapter(AdapterRequest("large", file), large)


def test_lora_for_another_model_names_the_module(large, state, write):
    beyond = "transformer_blocks.30.attn.to_q"
    with pytest.raises(PairError, match=rf"changes {beyond}, which large '.*' does not have; is it a LoRA for another"):
        read_adapter(AdapterRequest("large", write(peft(beyond, state[f"{QUERY}.weight"]))), large)


@pytest.mark.parametrize(
    ("down", "up", "fault"),
    [
        ((2, 25), (24, 2), rf"adds \[24, 25\] to {QUERY}.weight, which is \[24, 24\] in large"),
        ((2, 24), (12, 2), rf"adds \[12, 24\] to {QUERY}.weight"),
        ((2, 24), (24, 3), r"are \[24, 3\] and \[2, 24\], which have no product"),
        ((2,), (24, 2), r"is F32\[2\], expected a matrix"),
    ],
)
def test_shapes_that_do_not_fit_are_told(large, write, down, up, fault):
    stem = f"transformer.{QUERY}"
    file = write({f"{stem}.lora_A.weight": torch.zeros(down), f"{stem}.lora_B.weight": torch.zeros(up)})
    with pytest.raises(PairError, match=fault):
        read_adapter(AdapterRequest("large", file), large)


def test_weight_changed_twice_in_one_file_is_refused(large, state, write):
    weight = state[f"{QUERY}.weight"]
    file = write(peft(QUERY, weight) | peft(QUERY.replace(".", "_"), weight, "lora_transformer_"))
    with pytest.raises(PairError, match=rf"changes {QUERY}.weight twice"):
        read_adapter(AdapterRequest("large", file), large)


@pytest.mark.parametrize("settings", ["[]", "{", json.dumps({"lora_alpha": "x"}), json.dumps({"alpha_pattern": [1]})])
def test_settings_that_make_no_sense_are_told(large, state, write, settings):
    file = write(peft(QUERY, state[f"{QUERY}.weight"]), {"lora_adapter_metadata": settings})
    with pytest.raises(PairError, match=r"style.safetensors (is a broken LoRA|has lora_alpha|has alpha_pattern)"):
        read_adapter(AdapterRequest("large", file), large)


@pytest.mark.parametrize(("name", "fault"), [("none.safetensors", "is not a file"), ("x.pt", "is a pickle")])
def test_no_safetensors_file_is_told(large, tmp_path, name, fault):
    (tmp_path / "x.pt").write_bytes(b"PK\3\4")
    with pytest.raises(PairError, match=fault):
        read_adapter(AdapterRequest("large", tmp_path / name), large)


@pytest.mark.parametrize(
    "metadata",
    [
        {"transformer.lora_alpha": "6", "transformer.r": "2"},
        {"lora_alpha": "6.0"},
        {"ss_network_alpha": "6", "ss_network_dim": "2"},
        {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 6})},
    ],
    ids=["flat", "bare", "kohya", "diffusers"],
)
def test_alpha_in_a_header_counts_in_every_spelling(large, state, write, metadata):
    weight = state[f"{QUERY}.weight"]
    read = weights_of(large, AdapterRequest("large", write(peft(QUERY, weight), metadata)))
    check_equal(read[f"{QUERY}.weight"].read(), weight + 6 / RANK * product(*pair_for(weight)))


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.float16, torch.float64])
def test_alpha_of_any_number_type_counts(large, state, write, kind):
    weight, alpha = state[f"{QUERY}.weight"], {f"transformer.{QUERY}.alpha": torch.tensor(6, dtype=kind)}
    read = weights_of(large, AdapterRequest("large", write(peft(QUERY, weight) | alpha)))
    check_equal(read[f"{QUERY}.weight"].read(), weight + 6 / RANK * product(*pair_for(weight)))


@pytest.mark.parametrize(
    ("alpha", "fault"),
    [
        (torch.zeros(0), r"alpha is F32\[0\], expected one number"),
        (torch.zeros(2), r"alpha is F32\[2\], expected one number"),
        (torch.tensor(True), r"alpha is BOOL\[\], expected one number"),
        (torch.tensor(math.nan), "alpha holds 1 numbers that are not finite"),
        (torch.tensor(math.inf), "alpha holds 1 numbers that are not finite"),
    ],
)
def test_alpha_that_is_no_number_is_told(large, state, write, alpha, fault):
    file = write(peft(QUERY, state[f"{QUERY}.weight"]) | {f"transformer.{QUERY}.alpha": alpha})
    with pytest.raises(PairError, match=fault):
        read_adapter(AdapterRequest("large", file), large)


def test_matrix_with_a_number_that_is_not_finite_is_named(large, state, write):
    tensors = peft(QUERY, state[f"{QUERY}.weight"])
    tensors[f"transformer.{QUERY}.lora_B.weight"][0, 0] = math.nan
    with pytest.raises(PairError, match=rf"{QUERY}.lora_B.weight holds 1 numbers that are not finite"):
        read_adapter(AdapterRequest("large", write(tensors)), large)


def test_rank_zero_is_told(large, state, write):
    rows, columns = state[f"{QUERY}.weight"].shape
    sides = {"lora_A": torch.zeros(0, columns), "lora_B": torch.zeros(rows, 0)}
    file = write({f"transformer.{QUERY}.{side}.weight": tensor for side, tensor in sides.items()})
    with pytest.raises(PairError, match=r"expected a matrix of floats"):
        read_adapter(AdapterRequest("large", file), large)


def test_plain_lora_of_lycoris_is_fused(large, state, write):
    weight = state[f"{QUERY}.weight"]
    down, up = pair_for(weight)
    module = f"lycoris_{QUERY.replace('.', '_')}"
    file = write({f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up})
    check_equal(weights_of(large, AdapterRequest("large", file))[f"{QUERY}.weight"].read(), weight + product(down, up))


@pytest.mark.parametrize("name", ["text_encoder.layers.0.q_proj.lora_A.weight", "lora_te1_layers_0.lora_down.weight"])
def test_part_for_text_encoders_is_left_and_counted(large, state, write, name):
    weight = state[f"{QUERY}.weight"]
    file = write(peft(QUERY, weight) | {name: torch.ones(2, 2)})
    assert read_adapter(AdapterRequest("large", file), large).left_out == 1
    read = weights_of(large, AdapterRequest("large", file))
    check_equal(read[f"{QUERY}.weight"].read(), weight + product(*pair_for(weight)))


def test_pattern_that_would_take_an_expression_for_ever_is_plain_text(large, state, write):
    """As a regular expression, this one takes longer than anybody waits."""
    settings = {"alpha_pattern": {"(([a-z_0-9]+)+)+!": 8, "to_q": 6}}
    weight = state[f"{QUERY}.weight"]
    file = write(peft(QUERY, weight), {"lora_adapter_metadata": json.dumps(settings)})
    read = weights_of(large, AdapterRequest("large", file))
    check_equal(read[f"{QUERY}.weight"].read(), weight + 6 / RANK * product(*pair_for(weight)))


def test_mutated_loras_are_refused_or_read(large, state, write, tmp_path):
    """Seeded; longer by HSEXPORT_FUZZ."""
    rng = random.Random(7)
    tensors = peft(QUERY, state[f"{QUERY}.weight"]) | {f"transformer.{QUERY}.alpha": torch.tensor(6.0)}
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 5, "transformer.alpha_pattern": {}})}
    whole = write(tensors, metadata).read_bytes()
    for _ in range(int(os.environ.get("HSEXPORT_FUZZ", "200"))):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(data) // 4)  # mostly the header
            data[place : place + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        (tmp_path / "mutated.safetensors").write_bytes(data)
        with suppress(PairError):
            read_adapter(AdapterRequest("large", tmp_path / "mutated.safetensors"), large)
