"""FLUX.2 transformers in fp8 and GGUF: every number as another reader has it."""

import shutil

import numpy as np
import pytest
from quantised_files import FP8_WRITERS, Q, by_gguf, by_torch, state_of, write_fp8, write_gguf, write_scaled_fp8
from single_file_twin import PREFIX

from hsexport.checkpoints.shards import digest_of, mark_of
from hsexport.checkpoints.weights import stored
from hsexport.families.flux2.family import Flux2

read_transformer = Flux2().read_transformer


WRITERS = {name: (write, by_torch) for name, write in FP8_WRITERS.items()} | {
    "gguf": (lambda state, file: write_gguf(state, file.with_suffix(".gguf"), "flux"), by_gguf),
    "gguf, prefixed": (
        lambda state, file: write_gguf({PREFIX + n: t for n, t in state.items()}, file.with_suffix(".gguf"), "flux2"),
        by_gguf,
    ),
    "gguf, reshaped": (
        lambda state, file: write_gguf(
            state, file.with_suffix(".gguf"), "flux", (Q.Q4_K, Q.Q8_0), ("double_blocks.0.img_attn.qkv.weight",)
        ),
        by_gguf,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRITERS)
def test_every_number_is_what_another_reader_makes_of_it(wide, state, tmp_path, kind):
    from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers

    write, read = WRITERS[kind]
    file = write(state, tmp_path / "x")
    by_name = {name.removeprefix(PREFIX): tensor for name, tensor in read(file).items()}
    config, tensors = read_transformer(file)
    assert config == read_transformer(wide)[0]
    expected = convert_flux2_transformer_checkpoint_to_diffusers(by_name)
    assert tensors.keys() == expected.keys()
    for name, header in tensors.items():
        assert header.shape == tuple(expected[name].shape)
        np.testing.assert_array_equal(stored(header).read().astype(np.float32), expected[name].numpy(), name)
    kinds = {stored(header).quantised.kind for header in tensors.values() if stored(header).quantised}
    assert kinds == {"int8" if "gguf" in kind else "fp8"}


def test_digest_of_a_quantised_file_does_not_depend_on_its_prefix(state, tmp_path):
    files = [write_scaled_fp8(state, tmp_path / f"{n}.safetensors", prefix=p) for n, p in enumerate(("", PREFIX))]
    files += [
        write_gguf({prefix + n: t for n, t in state.items()}, tmp_path / f"{number}.gguf", "flux2")
        for number, prefix in enumerate(("", PREFIX))
    ]
    told = [digest_of(read_transformer(file)[1]) for file in files]
    assert told[0] == told[1] and told[2] == told[3] and told[0] != told[2]


def test_file_and_folder_in_fp8_are_one_model(wide, state, tmp_path):
    folder = shutil.copytree(wide, tmp_path / "transformer")
    (held,) = folder.glob("*.safetensors")
    write_fp8(state_of(wide), held)
    files = [folder, write_fp8(state, tmp_path / "x.safetensors", prefix=PREFIX)]
    tensors = [read_transformer(each)[1] for each in files]
    assert digest_of(tensors[0]) == digest_of(tensors[1]) and mark_of(tensors[0]) == mark_of(tensors[1])
