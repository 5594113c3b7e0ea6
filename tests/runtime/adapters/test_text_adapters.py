"""LoRAs that hold layers of text encoders: beside diffusers with the same sums, and beside bundles built with them."""

import json
import warnings

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from lora_files import fused_by_hand, lora_of
from msgspec.structs import replace
from safetensors.numpy import save_file
from tiny_pair import T5_LENGTH

from hsruntime import Session
from hsruntime.adapters.documents import PairError
from hsruntime.adapters.lora import AdapterRequest
from hsruntime.adapters.sets import AdapterWarning
from hsruntime.batching import kind_of
from hsruntime.bundle.reader import Bundle, open_bundle
from hsruntime.options import PictureOptions, SessionOptions
from hsruntime.request import RequestError

QUERY = "transformer_blocks.0.attn.to_q"
LAYER, BLOCK = "text_model.encoder.layers.0", "encoder.block.0"
CLIP = (*(f"{LAYER}.self_attn.{name}_proj" for name in ("q", "k", "v", "out")), f"{LAYER}.mlp.fc1", f"{LAYER}.mlp.fc2")
CLIP = (*CLIP, "text_model.encoder.layers.1.self_attn.q_proj", "text_projection")
ATTENTION, FEED = f"{BLOCK}.layer.0.SelfAttention", f"{BLOCK}.layer.1.DenseReluDense"
T5 = (*(f"{ATTENTION}.{name}" for name in "qkvo"), *(f"{FEED}.{name}" for name in ("wi_0", "wi_1", "wo")))
MODULES = {"text_encoder": CLIP, "text_encoder_2": CLIP, "text_encoder_3": T5}


def text_of(folder, seed=0, encoders=tuple(MODULES), **options):
    """Tensors over every kind of layer that the encoders have."""
    found = {}
    for number, encoder in enumerate(encoders):
        found |= lora_of(folder, MODULES[encoder], seed + 10 * number, part=encoder, **options)
    return found


@pytest.fixture(scope="module")
def folder(tiny_pair_dirs, tmp_path_factory):
    """For large: of everything twice, of text alone, of the transformer alone; for small: by kohya's names."""
    root, (large, small) = tmp_path_factory.mktemp("text_adapters"), tiny_pair_dirs
    for seed in range(2):
        save_file(lora_of(large, [QUERY], seed) | text_of(large, seed), root / f"style{seed}.safetensors")
    save_file(text_of(large, 5), root / "text.safetensors")
    save_file(lora_of(large, [QUERY], 7), root / "image.safetensors")
    words = text_of(large, 8, ["text_encoder"], style="kohya")  # small's encoders are large's
    save_file(lora_of(small, [QUERY], 9, "kohya") | words, root / "little.safetensors")
    return root


@pytest.fixture(scope="module")
def session(tiny_bundle, folder):
    with Session.open(tiny_bundle, adapter_folder=str(folder)) as session:
        yield session


@pytest.fixture(scope="module")
def sparing(tiny_bundle, folder):
    with Session.open(tiny_bundle, adapter_folder=str(folder), text_on_demand=True) as session:
        yield session


def drawn(session, **asked):
    return session.generate("red", seed=3, schedule="large:2,hybrid:1,small:2", **asked)


def saved(tmp_path, tensors, metadata=None, name="other"):
    save_file(tensors, tmp_path / f"{name}.safetensors", metadata)
    return str(tmp_path / f"{name}.safetensors")


def test_pictures_equal_diffusers_with_the_same_layers(tiny_pair_dirs, session, tmp_path):
    tensors = lora_of(tiny_pair_dirs[0], [QUERY]) | text_of(tiny_pair_dirs[0])
    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_pair_dirs[0], torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    latent = session.manifest.facts.latent
    noise = np.random.default_rng(5).standard_normal((1, latent.channels, 8, 8), np.float32)

    def theirs():
        options = {"num_inference_steps": 4, "guidance_scale": 3.5, "max_sequence_length": T5_LENGTH}
        given = torch.from_numpy(noise)
        found = pipeline(
            "an apple", negative_prompt="blue", latents=given, width=16, height=16, output_type="np", **options
        )
        return (found.images * 255).round().astype(int)

    before = theirs()
    for part in ("transformer", *MODULES):
        fused_by_hand(getattr(pipeline, part), tensors, f"{part}.", 0.6)
    expected = theirs()
    asked = {"negative_prompt": "blue", "latents": noise, "guidance_scale": 3.5, "schedule": "large:4"}
    found = session.with_adapters(f"{saved(tmp_path, tensors)}:0.6").generate("an apple", **asked).images
    assert np.abs(expected - before).max() > 10
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("backend", "tolerance"), [("ort-cpu", 0), pytest.param("openvino", 1e-6, marks=pytest.mark.slow)]
)
def test_pictures_are_those_of_the_bundle_that_has_them_fused(
    request, tiny_pair_dirs, tiny_cache, folder, tmp_path, backend, tolerance
):
    from hsengines.build import build_options
    from hsexport.build.build import build
    from hsexport.build.request import BuildRequest
    from hsexport.progress import Reporter

    if backend == "openvino":
        pytest.importorskip("openvino")
    plain = request.getfixturevalue({"ort-cpu": "tiny_bundle", "openvino": "tiny_openvino_bundle"}[backend])
    asked = (
        AdapterRequest("small", folder / "little.safetensors", 0.7),
        AdapterRequest("large", folder / "style0.safetensors", 0.8),
        AdapterRequest("large", folder / "text.safetensors", -0.5),
    )
    out, options = tmp_path / "fused", build_options(backend)
    named = {"backend": backend, "options": options, "light": (1, 1), "lora": asked}
    build(BuildRequest(*map(str, tiny_pair_dirs), out, tiny_cache, **named), Reporter())
    adapters = [f"small={folder}/little.safetensors:0.7"]
    adapters += [f"{folder}/style0.safetensors:0.8", f"{folder}/text.safetensors:-0.5"]
    with Session.open(out) as session:
        expected = session.encode("red"), drawn(session)
    for text_on_demand in (False, True):
        with Session.open(plain, adapters=adapters, text_on_demand=text_on_demand) as session:
            words, picture = session.encode("red"), drawn(session)
            untouched = session.encode("red", lora="")
        for name, numbers in expected[0].items():
            scale = np.abs(numbers).max()
            assert np.abs(words[name] - numbers).max() <= tolerance * scale, name
            assert np.abs(untouched[name] - numbers).max() > 0.01 * scale, name
        scale = np.abs(expected[1].latents).max()
        assert np.abs(picture.latents - expected[1].latents).max() <= tolerance * scale


@pytest.mark.parametrize("style", ["kohya", "older diffusers", "flat"])
def test_every_spelling_changes_the_same_layers(session, tiny_pair_dirs, tmp_path, style):
    clips = MODULES if style != "flat" else ["text_encoder", "text_encoder_2"]
    texts = [text_of(tiny_pair_dirs[0], 4, clips, style=name) for name in ("diffusers", style)]
    assert not texts[0].keys() & texts[1].keys() or style == "flat"
    words = [session.with_adapters(saved(tmp_path, each)).encode("red") for each in texts]
    plain = session.encode("red")
    for name in plain:
        np.testing.assert_array_equal(words[0][name], words[1][name])
        assert not np.array_equal(words[0][name], plain[name])


def test_a_lora_of_text_alone_changes_no_other_engine(session):
    pictures = drawn(session), drawn(session, lora="text")
    assert not np.array_equal(*(picture.latents for picture in pictures))
    (made,) = [kept for kept in session._sets._kept.values() if kept.told == ("text:1",)]
    assert set(made.engines) == set(MODULES)


@pytest.mark.parametrize("on_demand", [False, True])
def test_sets_that_alternate_each_get_their_own(session, sparing, tiny_bundle, folder, on_demand):
    """Also those that differ in a scale alone, and whose prompts are the same."""
    names = ["style0", "style1", "", "text", "style0:0.5", "image"]
    alone = {}
    for name in names:
        with Session.open(tiny_bundle, adapter_folder=str(folder)) as fresh:
            alone[name] = drawn(fresh, lora=name).latents
    assert len({latents.tobytes() for latents in alone.values()}) == len(names)
    mixed = sparing if on_demand else session
    for name in [*names, *reversed(names), *names]:
        np.testing.assert_array_equal(drawn(mixed, lora=name).latents, alone[name], name)
        if name in ("", "image"):
            words = mixed.encode("red", lora=name), mixed.encode("red")
            np.testing.assert_array_equal(words[0].text, words[1].text)
        else:
            assert not np.array_equal(mixed.encode("red", lora=name).text, mixed.encode("red").text)


def test_embeddings_of_a_set_are_encoded_for_it(session, folder):
    adapted = session.with_adapters(str(folder / "style0.safetensors"))
    words = adapted.encode("red", negative_prompt="")
    assert not np.array_equal(words.text, session.encode("red", negative_prompt="").text)
    np.testing.assert_array_equal(words.text, session.encode("red", negative_prompt="", lora="style0").text)
    asked = {"seed": 3, "schedule": "large:2"}
    one, other = adapted.generate(embeddings=words, **asked), adapted.generate("red", **asked)
    np.testing.assert_array_equal(one.latents, other.latents)


def test_on_demand_reads_a_prompt_again_only_for_other_encoders(sparing, monkeypatch):
    opened, load = [], sparing._load
    monkeypatch.setattr(sparing, "_load", lambda name, *replaced: opened.append(name) or load(name, *replaced))

    def encoders_for(lora):
        opened.clear()
        drawn(sparing, lora=lora)
        return [name for name in opened if name in MODULES]

    encoders_for("style0")
    assert encoders_for("style0") == []
    assert encoders_for("style1") == list(MODULES)
    assert encoders_for("image") == list(MODULES)
    assert encoders_for("") == []  # the transformer's layers change no word
    (made,) = [kept for kept in sparing._sets._kept.values() if kept.told == ("image:1",)]
    assert set(made.engines) == {"large", "light"}
    drawn(sparing, lora="text")
    (made,) = [kept for kept in sparing._sets._kept.values() if kept.told == ("text:1",)]
    assert made.engines == {} and made.size_bytes == 0


def test_requests_for_other_words_share_no_batch(session):
    requests = [
        PictureOptions(prompt="red", lora=name).completed(session.manifest) for name in ("text", "text:0.5", "")
    ]
    assert len(set(map(kind_of, requests))) == 3


def test_alphas_count_by_encoder(session, tiny_pair_dirs, tmp_path):
    tensors = text_of(tiny_pair_dirs[0], 4, ["text_encoder", "text_encoder_2"])
    settings = {"text_encoder.lora_alpha": 6, "text_encoder_2.lora_alpha": 1, "transformer.lora_alpha": 50}
    metadata = {"lora_adapter_metadata": json.dumps(settings)}
    by_hand = {
        name: value * (3 if name.startswith("text_encoder.") else 0.5) if "lora_B" in name else value
        for name, value in tensors.items()
    }
    files = saved(tmp_path, tensors, metadata, "alphas"), saved(tmp_path, by_hand)
    one, other = (session.with_adapters(file).encode("red").text for file in files)
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def without(bundle, engine):
    """The same bundle without one of its text encoders, whose tokens become zeros."""
    side = bundle.manifest.facts.text["text"]
    kept = replace(side, encoders=[slot for slot in side.encoders if slot.engine != engine])
    facts = replace(bundle.manifest.facts, text={"text": kept})
    engines = {name: record for name, record in bundle.manifest.engines.items() if name != engine}
    return Bundle(bundle.path, replace(bundle.manifest, facts=facts, engines=engines))


def test_layers_of_an_encoder_that_is_not_there_are_left_out_and_told(tiny_bundle, folder, tiny_pair_dirs, tmp_path):
    bundle, style = without(open_bundle(tiny_bundle), "text_encoder_3"), str(folder / "style0.safetensors")
    clips = text_of(tiny_pair_dirs[0], 0, ["text_encoder", "text_encoder_2"])
    rest = saved(tmp_path, lora_of(tiny_pair_dirs[0], [QUERY]) | clips)
    with Session(bundle) as session:
        told = r"style0.safetensors also changes text encoders that are not there \(14 tensors\): that part is left out"
        with pytest.warns(AdapterWarning, match=told) as caught:
            found = drawn(session.with_adapters(style))
        assert len(caught) == 1 and "\n" not in str(caught[0].message)
        with warnings.catch_warnings():
            warnings.simplefilter("error", AdapterWarning)
            expected = drawn(session.with_adapters(rest))
        np.testing.assert_array_equal(found.latents, expected.latents)
        alone = saved(tmp_path, text_of(tiny_pair_dirs[0], 0, ["text_encoder_3"]), name="alone")
        with pytest.raises(PairError, match="without a part for the transformer or a text encoder that is there"):
            drawn(session.with_adapters(alone))


def other_layer(tensors):
    return {name.replace("layers.0", "layers.40"): value for name, value in tensors.items()}


def other_width(tensors):
    return {name: value[:, :-1] if "lora_A" in name else value for name, value in tensors.items()}


def no_product(tensors):
    return {name: value[:1] if "lora_A" in name else value for name, value in tensors.items()}


def with_nan(tensors):
    first = next(iter(tensors))
    return tensors | {first: np.full_like(tensors[first], np.nan)}


def dora(tensors):
    return tensors | {f"text_encoder.{CLIP[0]}.lora_magnitude_vector": np.ones(12, np.float32)}


@pytest.mark.parametrize(
    ("spoilt", "fault"),
    [
        (
            other_layer,
            r"changes text_model.encoder.layers.40.*, which text_encoder of large of this bundle does not have",
        ),
        (other_width, r"adds \[12, 11\] to text_model.*, which is \[12, 12\] in text_encoder of large of this bundle"),
        (no_product, r"broken LoRA: the matrices of text_model.* are \[12, 2\] and \[1, 12\], which have no product"),
        (with_nan, r"text_encoder.*lora_A.weight holds 24 numbers that are not finite"),
        (dora, r"is a DoRA: it holds text_encoder.*; only plain LoRA is fused"),
    ],
)
def test_bad_text_layers_are_told_in_one_line(session, tiny_pair_dirs, tmp_path, spoilt, fault):
    tensors = spoilt(lora_of(tiny_pair_dirs[0], CLIP[:1], part="text_encoder"))
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    with pytest.raises(PairError, match=fault) as raised:
        drawn(session.with_adapters(saved(tmp_path, tensors)))
    assert "\n" not in str(raised.value)
    drawn(session)  # which goes on


def test_quantised_encoders_take_none_and_the_others_do(tiny_bundle, folder, tiny_pair_dirs, tmp_path):
    bundle = open_bundle(tiny_bundle)
    engines, name = dict(bundle.manifest.engines), "text_encoder_3"
    engines[name] = replace(engines[name], weight_format="int8")
    files = [file for file in bundle.manifest.files if file.path != f"adapters/{name}.json"]
    clips = saved(tmp_path, text_of(tiny_pair_dirs[0], 0, ["text_encoder", "text_encoder_2"]))
    with Session(Bundle(bundle.path, replace(bundle.manifest, engines=engines, files=files))) as session:
        told = f"the bundle takes no adapters for {name}: its weights are stored in int8; build it with --lora"
        with pytest.raises(RequestError, match=told):
            drawn(session.with_adapters(str(folder / "style0.safetensors")))
        drawn(session.with_adapters(clips))


def test_options_take_files_with_text_layers(tiny_bundle, folder, session):
    file = str(folder / "text.safetensors")
    with Session(open_bundle(tiny_bundle), SessionOptions(adapters=f"{file}:0.5")) as opened:
        np.testing.assert_array_equal(drawn(opened).latents, drawn(session, lora="text:0.5").latents)
