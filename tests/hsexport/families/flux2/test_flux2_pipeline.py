"""The FLUX.2 family beside diffusers' own pipeline: the same latents and prompts give the same pixels."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from tiny_flux2 import TEXT_LENGTH

from hsengines.build import build_options
from hsexport.build.verify.bundle import verify_bundle
from hsexport.progress import Reporter
from hsruntime import Session
from hsruntime.bundle.reader import open_bundle
from hsruntime.request import GuidanceWarning
from hsruntime.schedule.presets import PRESETS
from hsruntime.schedule.schedule import ScheduleError
from hsruntime.text.tokenize import PromptCutWarning, PromptTokenizer

PROMPTS = ["a red apple", "\n\n  an old <|im_end|> teapot"]
SIZES = ((32, 32), (48, 24), (16, 40))


def diffusers_pipeline(folder):
    pipeline = Flux2KleinPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def largest_difference(pipeline, session, schedule, size, guidance, steps=6):
    """Over final pixels, in steps of 1/255."""
    latent, (width, height) = session.manifest.facts.latent, size
    shape = (len(PROMPTS), latent.channels, height // latent.vae_scale, width // latent.vae_scale)
    noise = np.random.default_rng(5).standard_normal(shape, np.float32)
    theirs = pipeline(
        prompt=PROMPTS,
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=torch.from_numpy(noise),
        width=width,
        height=height,
        max_sequence_length=TEXT_LENGTH,
        output_type="np",
    ).images
    asked = {"latents": noise, "guidance_scale": guidance, "schedule": f"{schedule}:{steps}"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GuidanceWarning)
        ours = session.generate(PROMPTS, **asked).images
    expected = (theirs * 255).round().astype(np.uint8)
    assert expected.std() > 5, "a flat picture would agree with anything"
    return np.abs(ours.astype(int) - expected).max()


def test_large_alone_and_small_alone_equal_diffusers(flux2_dirs, flux2_bundle):
    with Session.open(flux2_bundle) as session:
        for role, folder in zip(("large", "small"), flux2_dirs, strict=True):
            pipeline = diffusers_pipeline(folder)
            for size in SIZES:
                assert largest_difference(pipeline, session, role, size, 4.0) <= 1, (role, size)
            assert largest_difference(pipeline, session, role, SIZES[1], 1.0) <= 1, role


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino"])
def test_other_backends_equal_diffusers_and_draw_with_every_preset(flux2_dirs, flux2_built, backend):
    bundle = flux2_built(*flux2_dirs, backend=backend, options=build_options(backend))
    with Session.open(bundle) as session:
        for role, folder in zip(("large", "small"), flux2_dirs, strict=True):
            assert largest_difference(diffusers_pipeline(folder), session, role, SIZES[1], 4.0) <= 1, role
        check_every_preset(session)


def check_every_preset(session):
    """Each draws a picture, most of them another one."""
    drawn = set()
    for name in set(PRESETS) - {"edit"}:  # which begins from a picture
        picture = session.generate("a pear", schedule=name, steps=12).image
        assert picture.std() > 5
        drawn.add(picture.tobytes())
    assert len(drawn) > 7


def test_every_preset_and_the_strong_oracle(flux2_bundle):
    done = verify_bundle(open_bundle(flux2_bundle), Reporter())
    assert done.passed
    assert any("region" in comparison.reference for comparison in done.comparisons)
    with Session.open(flux2_bundle) as session:
        check_every_preset(session)
        whole = session.generate("a fox", schedule="large:6").latents
        region = session.generate("a fox", schedule="large:2,region:4;signal=random,ratio=1.0,reselect=1").latents
        np.testing.assert_allclose(region, whole, atol=1e-4)


def test_each_member_reads_the_prompt_by_its_own_encoder_and_no_layer_too_many(flux2_bundle):
    facts = open_bundle(flux2_bundle).manifest.facts
    assert (facts.large.text, facts.small.text) == ("text", "small_text")
    assert facts.text["text"].encoders[0].before == "<|im_start|>user\n"
    assert facts.text["text"].encoders[0].behind.startswith("<|im_end|>\n<|im_start|>assistant\n<think>")
    engine = open_bundle(flux2_bundle).manifest.engines["text_encoder"]
    assert engine.products == {} and [t.shape[-1] for t in engine.spec.outputs] == [12, 12, 12]


@pytest.mark.parametrize(
    "prompt",
    ["a red apple", "", " ", "\n\nlines\n\n", "<|im_start|>user", "<|endoftext|>" * 3, "ape te aa", "\u00e9\U0001f34e"],
)
def test_ids_are_those_that_the_pipeline_gives_its_text_encoder(flux2_dirs, flux2_bundle, prompt):
    bundle, tokenizer = open_bundle(flux2_bundle), diffusers_pipeline(flux2_dirs[0]).tokenizer
    slot = bundle.manifest.facts.text["text"].encoders[0]
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    theirs = tokenizer(text, padding="max_length", truncation=True, max_length=TEXT_LENGTH)["input_ids"]
    ours = PromptTokenizer(bundle.file(slot.tokenizer), slot).ids([(prompt,)])
    assert ours.tolist() == [theirs]


def test_the_end_of_a_prompt_that_is_cut_is_told_without_the_template(flux2_bundle):
    with Session.open(flux2_bundle) as session, pytest.warns(PromptCutWarning) as told:
        session.generate("x" * 90 + " end", schedule="small:1")
    (warning, *_) = told
    assert str(warning.message).endswith(" end'") and "im_end" not in str(warning.message)


def distilled(folder, root):
    """The same pipeline, said to be distilled."""
    shutil.copytree(folder, root)
    index = json.loads((root / "model_index.json").read_text())
    (root / "model_index.json").write_text(json.dumps(index | {"is_distilled": True}))
    return root


def test_distilled_members_take_no_guidance_and_draw_in_four_steps(flux2_dirs, flux2_built, tmp_path):
    large, small = (distilled(folder, tmp_path / folder.name) for folder in flux2_dirs)
    with Session.open(flux2_built(large, small)) as session:
        facts = session.manifest.facts
        assert (facts.defaults.steps, facts.defaults.guidance_scale, facts.has_guidance) == (4, 1.0, False)
        for role, folder in (("large", large), ("small", small)):
            assert largest_difference(diffusers_pipeline(folder), session, role, SIZES[1], 4.0, steps=4) <= 1, role
        with pytest.warns(GuidanceWarning, match="the pair is distilled"):
            loud = session.generate("a pear", guidance_scale=7.0, schedule="large:2,small:2")
        plain = session.generate("a pear", schedule="large:2,small:2")
        assert np.array_equal(loud.image, plain.image)
        for preset in ("hybridstitch", "tstitch", "regionstitch"):
            assert session.generate("a pear", schedule=preset).schedule.steps == 4


def test_a_distilled_large_beside_a_small_with_guidance(flux2_dirs, flux2_built, tmp_path):
    """One row for the one, two for the other, one after the other; together they are refused."""
    large = distilled(flux2_dirs[0], tmp_path / "large")
    with Session.open(flux2_built(large, flux2_dirs[1], schedule="large:2,small:2")) as session:
        mixed = session.generate("a pear", guidance_scale=4.0, schedule="large:2,small:2")
        assert str(mixed.schedule).startswith("large+off:2,small:2")
        assert largest_difference(diffusers_pipeline(large), session, "large", SIZES[1], 4.0) <= 1
        assert largest_difference(diffusers_pipeline(flux2_dirs[1]), session, "small", SIZES[1], 4.0) <= 1
        with pytest.raises(ScheduleError, match="only one of them takes guidance"):
            session.generate("a pear", guidance_scale=4.0, schedule="large:2,hybrid:2")
