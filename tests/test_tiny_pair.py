import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from tiny_pair import make_pair, make_pipeline

from hsexport.checkpoints.shards import digest_of, read_headers


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("tiny"))


def picture(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    settings = {"height": 16, "width": 16, "num_inference_steps": 2, "max_sequence_length": 10, "output_type": "np"}
    return pipeline("red cat", generator=noise, **settings).images[0]


def test_diffusers_makes_a_picture_with_it(tiny):
    image = picture(StableDiffusion3Pipeline.from_pretrained(tiny[0]))
    assert image.shape == (16, 16, 3)
    assert image.std() > 0.05


def test_without_t5_diffusers_must_be_told_so(tmp_path):
    directory = make_pipeline(tmp_path, with_t5=False)
    pipeline = StableDiffusion3Pipeline.from_pretrained(directory, text_encoder_3=None, tokenizer_3=None)
    assert picture(pipeline).std() > 0.05


def test_no_parameter_is_trivial(tiny):
    model = SD3Transformer2DModel.from_pretrained(tiny[1] / "transformer")
    assert model.config.dual_attention_layers == [0]
    assert all(parameter.std() > 1e-3 and parameter.all() for parameter in model.parameters())


def test_parts_follow_the_text_seed_alone(tiny, tmp_path):
    same = make_pipeline(tmp_path / "same", seed=5)
    other = make_pipeline(tmp_path / "other", text_seed=9)
    for part in ("vae", "text_encoder", "text_encoder_3"):
        digests = [digest_of(read_headers(root / part)) for root in (tiny[0], same, other)]
        assert digests[0] == digests[1] != digests[2]
