"""Our runtime beside diffusers' own pipeline: the same latents and prompts give the same pixels."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from tiny_pair import T5_LENGTH, make_pair

from hsengines.build import build_options
from hsexport.build.build import build
from hsexport.build.request import BuildRequest
from hsexport.progress import Reporter
from hsruntime import Session
from hsruntime.request import RequestError

PROMPTS = ["a red apple", "an old teapot on a table"]
NEGATIVE = "blue"


def built(large: Path, small: Path, root: Path, cache: Path, **request) -> Path:
    build(BuildRequest(large=str(large), small=str(small), out=root, cache=cache, **request), Reporter())
    return root


def with_shift(folder: Path, shift: float) -> None:
    FlowMatchEulerDiscreteScheduler(shift=shift).save_pretrained(folder / "scheduler")


def diffusers_pipeline(large: Path, small: Path | None = None) -> StableDiffusion3Pipeline:
    parts = {}
    if small is not None:
        parts["transformer"] = SD3Transformer2DModel.from_pretrained(small / "transformer", torch_dtype=torch.float32)
    pipeline = StableDiffusion3Pipeline.from_pretrained(large, torch_dtype=torch.float32, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def largest_difference(pipeline, session, schedule, steps, size, guidance, t5_length, **texts):
    """Over final pixels, in steps of 1/255."""
    latent, (width, height) = session.manifest.facts.latent, size
    shape = (len(PROMPTS), latent.channels, height // latent.vae_scale, width // latent.vae_scale)
    noise = np.random.default_rng(5).standard_normal(shape, np.float32)
    theirs = pipeline(
        PROMPTS,
        negative_prompt=[NEGATIVE] * len(PROMPTS),
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=torch.from_numpy(noise),
        width=width,
        height=height,
        max_sequence_length=t5_length,
        output_type="np",
        **texts,
    ).images
    ours = session.generate(
        PROMPTS,
        negative_prompt=NEGATIVE,
        latents=noise,
        guidance_scale=guidance,
        schedule=f"{schedule}:{steps}",
        **texts,
    ).images
    expected = (theirs * 255).round().astype(np.uint8)
    assert expected.std() > 5, "a flat picture would agree with anything"
    return np.abs(ours.astype(int) - expected).max()


@pytest.mark.parametrize(
    ("shift", "backend"),
    [
        pytest.param(1.0, "ort-cpu", marks=pytest.mark.slow),
        (3.0, "ort-cpu"),
        pytest.param(3.0, "openvino", marks=pytest.mark.slow),
    ],
)
def test_tiny_pair_equals_diffusers(tiny_pair_dirs, tiny_cache, tmp_path, shift, backend):
    large, small = tiny_pair_dirs
    linked = tmp_path / "large"
    linked.mkdir()
    for part in large.iterdir():
        if part.name != "scheduler":
            (linked / part.name).symlink_to(part)
    with_shift(linked, shift)
    request = {"backend": backend, "options": build_options(backend), "light": (1, 1)}
    with Session.open(built(linked, small, tmp_path / "bundle", tiny_cache, **request)) as session:
        for size, guidance in (((16, 16), 4.0), ((24, 12), 4.0), ((12, 20), 1.0)):
            large_difference = largest_difference(
                diffusers_pipeline(linked), session, "large", 6, size, guidance, T5_LENGTH
            )
            small_difference = largest_difference(
                diffusers_pipeline(linked, small), session, "small", 6, size, guidance, T5_LENGTH
            )
            assert large_difference <= 1 and small_difference <= 1, (size, guidance)


@pytest.mark.parametrize(
    "texts",
    [
        {"prompt_2": ["pears"] * 2},
        {"prompt_3": ["a red fish", "a dog"]},
        {"prompt_2": ["x", "z"], "prompt_3": ["y"] * 2},
    ],
)
def test_other_prompts_for_other_text_encoders_equal_diffusers_own(tiny_pair_dirs, tiny_bundle, texts):
    pipeline = diffusers_pipeline(tiny_pair_dirs[0])
    with Session.open(tiny_bundle) as session:
        assert largest_difference(pipeline, session, "large", 6, (16, 16), 4.0, T5_LENGTH, **texts) <= 1
        plain = session.generate(PROMPTS, schedule="large:6").images
        other = session.generate(PROMPTS, schedule="large:6", **texts).images
        assert np.abs(plain.astype(int) - other).max() > 1, "the tiny pair looks at each encoder's answer"
        rows = session.encode(PROMPTS, negative_prompt="", **texts)
        assert np.array_equal(session.generate(embeddings=rows, schedule="large:6").images, other)


@pytest.mark.slow
def test_tiny_pair_without_its_t5_equals_diffusers_without_it(tiny_pair_dirs, tiny_bundle, tiny_cache, tmp_path):
    large, small = tiny_pair_dirs
    parts = {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = StableDiffusion3Pipeline.from_pretrained(large, torch_dtype=torch.float32, **parts)
    pipeline.set_progress_bar_config(disable=True)
    with Session.open(built(large, small, tmp_path / "bundle", tiny_cache, without=("t5",))) as session:
        manifest = session.manifest
        assert [slot.engine for slot in manifest.facts.slots] == ["text_encoder", "text_encoder_2"]
        assert not [name for name in (*manifest.engines, *(f.path for f in manifest.files)) if "_3" in name]
        assert largest_difference(pipeline, session, "large", 6, (16, 16), 4.0, T5_LENGTH) <= 1
        short = session.generate(PROMPTS[0], schedule="large:6").image
        with pytest.raises(RequestError, match="there is a prompt_3, the bundle has 2 text encoders; leave it out"):
            session.generate(PROMPTS[0], prompt_3="x")
    with Session.open(tiny_bundle) as session:
        assert np.abs(session.generate(PROMPTS[0], schedule="large:6").image.astype(int) - short).max() > 1


@pytest.mark.slow
@pytest.mark.parametrize("length", [7, 14])
def test_max_sequence_length_equals_diffusers_own(tiny_pair_dirs, tiny_cache, tmp_path, length):
    """Shorter than the tokenizer states, and longer."""
    large, small = tiny_pair_dirs
    pipeline = StableDiffusion3Pipeline.from_pretrained(large, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    with Session.open(built(large, small, tmp_path / "bundle", tiny_cache, max_sequence_length=length)) as session:
        assert largest_difference(pipeline, session, "large", 6, (16, 16), 4.0, length) <= 1


@pytest.mark.slow
def test_pair_shaped_like_sd3_medium_equals_diffusers(tmp_path):
    """No qk-norm, no dual attention, patch 1, no T5."""
    large, small = make_pair(tmp_path / "pair", qk_norm=None, dual_layers=(), patch_size=1, with_t5=False)
    bundle = built(large, small, tmp_path / "bundle", tmp_path / "cache")
    parts = {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = StableDiffusion3Pipeline.from_pretrained(large, torch_dtype=torch.float32, **parts)
    pipeline.set_progress_bar_config(disable=True)
    with Session.open(bundle) as session:
        assert largest_difference(pipeline, session, "large", 6, (16, 8), 4.0, 256) <= 1


@pytest.mark.slow
def test_demo_pair_equals_diffusers(demo_bundle):
    demo = Path(str(files("hsexport"))) / "demo"
    with Session.open(demo_bundle) as session:
        for model, small in (("large", None), ("small", demo / "small")):
            pipeline = diffusers_pipeline(demo / "large", small)
            for size in ((128, 128), (160, 96)):
                assert largest_difference(pipeline, session, model, 8, size, 3.5, 16) <= 1, (model, size)
