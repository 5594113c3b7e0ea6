import warnings

import numpy as np
import pytest
from diffusers import StableDiffusion3Pipeline
from transformers import AutoTokenizer

from hsruntime.bundle.manifest import BundleError
from hsruntime.bundle.reader import open_bundle
from hsruntime.text.tokenize import PromptCutWarning, PromptTokenizer, warn_of_cuts

PROMPTS = [
    "",
    "red cat",
    "Red  CAT!",
    "a very long prompt, much longer than any encoder takes",
    "émoji 🍎",
    "a\nb\t c ",
]


@pytest.fixture(scope="module")
def tokenizers(tiny_bundle):
    """The tiny bundle's: two CLIPs of 12 ids, start and end among them, and a T5 of 10, the end among them."""
    bundle = open_bundle(tiny_bundle)
    return [PromptTokenizer(bundle.file(e.tokenizer), e) for e in bundle.manifest.facts.slots]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version": "1.0"}', b"\xff", None])
def test_file_that_is_no_tokenizer_is_named(tokenizers, tmp_path, content):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        BundleError, match=r"tokenizer '.*bad\.json' cannot be read: .*; build the bundle again"
    ) as told:
        PromptTokenizer(path, tokenizers[0].encoder)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_ids_equal_transformers(tokenizers, tiny_pair_dirs, number):
    folder = tiny_pair_dirs[0] / ("tokenizer", "tokenizer_2", "tokenizer_3")[number]
    length = tokenizers[number].encoder.length
    # As StableDiffusion3Pipeline calls them.
    theirs = AutoTokenizer.from_pretrained(folder)(
        PROMPTS, padding="max_length", max_length=length, truncation=True, return_tensors="np"
    )
    ours = tokenizers[number].ids([(prompt,) for prompt in PROMPTS])
    assert ours.dtype == np.int32
    np.testing.assert_array_equal(ours, theirs.input_ids)


def test_lengths_are_those_of_the_pipeline(tokenizers, tiny_pair_dirs):
    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_pair_dirs[0])
    assert [t.encoder.length for t in tokenizers[:2]] == [pipeline.tokenizer_max_length] * 2
    assert tokenizers[2].encoder.length == pipeline.tokenizer_3.model_max_length


@pytest.mark.parametrize(
    ("prompt", "lost"),
    [
        ("abcdefghij", ("", "ij")),  # 10 letters and two marks fill a CLIP; T5 reads a word mark, 8 letters, an end
        ("abcdefghijklm", ("klm", "ijklm")),
        ("ABCDEFGHIJKLM", ("KLM", "IJKLM")),
        ("red apple on a table", ("a table", "e on a table")),  # a CLIP has no tokens for blanks
        ("red", ("", "")),
        ("short", ("", "")),
        ("", ("", "")),
    ],
)
def test_end_of_a_prompt_that_does_not_fit_is_known_as_written(tokenizers, prompt, lost):
    clip, _, t5 = tokenizers
    assert (clip.lost(prompt)[0], t5.lost(prompt)[0]) == lost


def test_cut_prompt_warns_once_for_each_length(tokenizers):
    with pytest.warns(PromptCutWarning) as caught:
        warn_of_cuts(tokenizers, [("abcdefghijklm",)] * 2)
    assert [str(w.message) for w in caught] == [
        "text_encoder reads 12 of the prompt's 15 tokens and does not see its end: 'klm'",
        "text_encoder_3 reads 10 of the prompt's 15 tokens and does not see its end: 'ijklm'",
    ]


def test_each_cut_prompt_of_a_batch_warns(tokenizers):
    with pytest.warns(PromptCutWarning) as caught:
        warn_of_cuts(tokenizers[:1], [("abcdefghijklm",), ("short",), ("nopqrstuvwxyz",)])
    assert ["'klm'" in str(caught[0].message), "'xyz'" in str(caught[1].message)] == [True, True]


def test_prompt_that_fits_does_not_warn(tokenizers):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_cuts(tokenizers, [("short",), ("",)])
