"""Bundles of quantised checkpoints beside diffusers' own pipeline, given the same numbers by other readers."""

import json
import shutil

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from quantised_files import (
    LEGACY,
    Q,
    by_gguf,
    by_torch,
    dequantised_transformer,
    llama_names,
    stability_twin,
    state_of,
    transformers_names,
    write_fp8,
    write_gguf,
    write_scaled_fp8,
)
from test_pipeline_parity import largest_difference
from tiny_pair import T5_LENGTH
from transformers import T5EncoderModel

from hsexport.build.build import build
from hsexport.build.request import BuildRequest
from hsexport.checkpoints.source import DEMO
from hsexport.progress import Reporter
from hsruntime import Session


class Warnings(Reporter):
    """Keeps what it is warned of."""

    def __init__(self):
        self.told = []

    def warn(self, text):
        self.told.append(text)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def t5_written(folder, write):
    """The T5 in a pipeline's folder written anew by `write(original, file)`."""
    original = state_of(folder)
    (file,) = folder.glob("*.safetensors")
    file.unlink()
    return original, write(original, file)


def pipeline_of(folder, transformer, t5_numbers):
    """Diffusers' pipeline of a folder in fp32, with numbers of our choice in its transformer and T5."""
    config = T5EncoderModel.config_class.from_pretrained(folder / "text_encoder_3")
    t5 = T5EncoderModel(config).float()
    missing = t5.load_state_dict(dict(t5_numbers), strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"encoder.embed_tokens.weight", "shared.weight"}
    made = StableDiffusion3Pipeline.from_pretrained(
        folder, transformer=transformer, text_encoder_3=t5.eval(), torch_dtype=torch.float32
    )
    made.set_progress_bar_config(disable=True)
    return made


def built(root, large, small, cache, **request):
    reporter = Warnings()
    build(BuildRequest(str(large), str(small), root / "bundle", cache, **request), reporter)
    return root / "bundle", reporter.told


@pytest.mark.slow
def test_gguf_and_fp8_folder_equal_diffusers_with_their_numbers(tiny_pair_dirs, tiny_cache, tmp_path):
    """Large is one GGUF file, small a pipeline whose transformer is in fp8 and whose T5 is a GGUF file."""
    large, small = tiny_pair_dirs
    whole = shutil.copytree(large, tmp_path / "whole")
    shutil.rmtree(whole / "transformer")
    shutil.copytree(small / "transformer", whole / "transformer")
    (fp8,) = (whole / "transformer").glob("*.safetensors")
    write_fp8(state_of(small / "transformer"), fp8)
    original, t5 = t5_written(
        whole / "text_encoder_3",
        lambda state, file: write_gguf(llama_names(state), file.with_suffix(".gguf"), "t5encoder", (Q.Q8_0, Q.Q5_1)),
    )
    numbers = transformers_names(by_gguf(t5), original)
    file = write_gguf(stability_twin(large / "transformer"), tmp_path / "large.gguf")
    bundle, told = built(tmp_path, file, whole, tiny_cache, light=(1, 1), size=(16, 16))
    assert [line.partition(" is quantised: ")[0] for line in told if "quantised" in line] == [
        "large",
        "small",
        "text_encoder_3",
    ]
    assert all("; they are dequantised" in line for line in told if "quantised" in line)
    theirs = dequantised_transformer(config_of(large / "transformer"), by_gguf(file))
    small_theirs = SD3Transformer2DModel.from_config(config_of(small / "transformer"))
    small_theirs.load_state_dict(by_torch(fp8))
    with Session.open(bundle) as session:
        for member, transformer in (("large", theirs), ("small", small_theirs.eval())):
            pipeline = pipeline_of(whole, transformer, numbers)
            assert largest_difference(pipeline, session, member, 6, (16, 16), 4.0, T5_LENGTH) <= 1


@pytest.mark.slow
def test_scaled_fp8_equals_diffusers_with_its_numbers(tiny_pair_dirs, tiny_cache, tmp_path):
    """Large has a scaled T5 by the newer names, small is one scaled file by the older ones."""
    large, small = tiny_pair_dirs
    whole = shutil.copytree(large, tmp_path / "whole")
    write = lambda state, file: write_scaled_fp8(state, file, new=True)  # noqa: E731
    _, t5 = t5_written(whole / "text_encoder_3", write)
    file = write_scaled_fp8(stability_twin(small / "transformer"), tmp_path / "small.safetensors")
    bundle, told = built(tmp_path, whole, file, tiny_cache, light=(1, 1))
    assert [line.partition(" is quantised: ")[0] for line in told if "quantised" in line] == ["small", "text_encoder_3"]
    theirs = dequantised_transformer(config_of(small / "transformer"), by_torch(file))
    with Session.open(bundle) as session:
        pipeline = pipeline_of(whole, theirs, by_torch(t5))
        assert largest_difference(pipeline, session, "small", 6, (16, 16), 4.0, T5_LENGTH) <= 1


DEMO_FILES = {
    "fp8": (lambda state, path: write_fp8(state, path / "x.safetensors"), by_torch),
    "scaled": (lambda state, path: write_scaled_fp8(state, path / "x.safetensors"), by_torch),
    "gguf": (lambda state, path: write_gguf(state, path / "x.gguf", kinds=LEGACY), by_gguf),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DEMO_FILES)
def test_demo_pair_equals_diffusers_with_its_numbers(kind, tmp_path):
    write, read = DEMO_FILES[kind]
    file = write(stability_twin(DEMO / "large" / "transformer"), tmp_path)
    whole = shutil.copytree(DEMO / "large", tmp_path / "whole")
    shutil.rmtree(whole / "transformer")
    shutil.copytree(DEMO / "small" / "transformer", whole / "transformer")
    bundle, _ = built(tmp_path, file, whole, tmp_path / "cache", size=(128, 128))
    theirs = dequantised_transformer(config_of(DEMO / "large" / "transformer"), read(file))
    with Session.open(bundle) as session:
        pipeline = pipeline_of(whole, theirs, {n: t.float() for n, t in state_of(whole / "text_encoder_3").items()})
        assert largest_difference(pipeline, session, "large", 8, (128, 128), 3.5, 16) <= 1
