"""Checkpoint files that lie, contradict themselves or ask for the impossible: refused in a line, at once, cheaply."""

import json
import os
import random
import resource
import shutil
from itertools import product

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from hsexport.build.recipe import recipe_for
from hsexport.build.request import BuildRequest, RecipeError
from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.shards import EXPONENTS, digest_of, file_headers, header_bytes
from hsexport.families.pair import load_pair

MUTATIONS = int(os.environ.get("HSEXPORT_FUZZ", "300"))
"""More by the variable."""


@pytest.fixture
def pair(tiny_pair_dirs, tmp_path):
    """A copy of the tiny pair, to be spoilt; (large, small)."""
    return tuple(shutil.copytree(folder, tmp_path / folder.name) for folder in tiny_pair_dirs)


def written(path, entries, data=b""):
    path.write_bytes(header_bytes(entries) + data)
    return path


def entry(begin, end, shape=None, dtype="F32"):
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


HEADERS = {
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, 12),
    "hole": ({"a": entry(0, 4), "b": entry(8, 12)}, 12),
    "bytes behind": ({"a": entry(0, 4)}, 12),
    "float extent": ({"a": entry(0, 4, [1.0])}, 4),
    "text extent": ({"a": entry(0, 4, ["1"])}, 4),
    "negative extent": ({"a": entry(0, 4, [-1])}, 4),
    "extent without end": ({"a": entry(0, 4, [10**300])}, 4),
    "product without end": ({"a": entry(0, 4, [2**40, 2**40])}, 4),
    "text offsets": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}}, 4),
    "too few bytes": ({"a": entry(0, 4, [2])}, 4),
    "unknown type": ({"a": entry(0, 4, [1], "F31")}, 4),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "a": entry(0, 4)}, 4),
    "entry of another kind": ({"a": [1]}, 4),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_what_the_library_refuses_is_refused(tmp_path, kind):
    entries, size = HEADERS[kind]
    file = written(tmp_path / "x.safetensors", entries, bytes(size))
    with pytest.raises(SafetensorError):
        safe_open(file, "np").__enter__()
    with pytest.raises(PairError, match=r"x\.safetensors"):
        list(file_headers(file))


def test_name_twice_is_refused(tmp_path):
    one = json.dumps(entry(0, 4))
    text = f'{{"a": {one}, "a": {one}}}'.encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(PairError, match=r"x\.safetensors is not a safetensors file"):
        list(file_headers(tmp_path / "x.safetensors"))


def test_nesting_without_end_is_refused(tmp_path):
    text = b'{"a": ' + b"[" * 200_000
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(PairError, match="header is not JSON"):
        list(file_headers(tmp_path / "x.safetensors"))


def test_mutated_files_are_refused_or_read_as_the_library_reads_them(tmp_path):
    """Seeded; the oracle is the library itself."""
    rng = random.Random(5)
    save_file({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}, tmp_path / "x")
    whole = (tmp_path / "x").read_bytes()
    for _ in range(MUTATIONS):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(data))
            match rng.randrange(3):
                case 0:
                    data[place] ^= 1 << rng.randrange(8)
                case 1:
                    del data[place : place + rng.randint(1, 5)]
                case 2:
                    data[place:place] = rng.choice([b"0", b'"', b",", b"[", b"9" * 30, b"-", b"\0"])
        (tmp_path / "y").write_bytes(data)
        try:
            ours = {header.name: header.shape for header in file_headers(tmp_path / "y")}
        except PairError:
            continue
        with safe_open(tmp_path / "y", "np") as theirs:
            assert ours == {name: tuple(theirs.get_slice(name).get_shape()) for name in theirs.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        *product(
            [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2],
            [float("nan"), float("inf"), float("-inf")],
        ),
        (torch.float8_e4m3fn, float("nan")),
    ],
)
def test_numbers_that_are_not_finite_are_named_while_weights_are_hashed(tmp_path, dtype, value):
    sound = torch.linspace(-400, 400, 77).to(dtype)
    spoilt = sound.clone()
    spoilt[5] = value
    save_file({"sound": sound, "spoilt.weight": spoilt}, tmp_path / "x.safetensors")
    headers = {header.name: header for header in file_headers(tmp_path / "x.safetensors")}
    assert headers["sound"].dtype in EXPONENTS
    digest_of({"sound": headers["sound"]})
    with pytest.raises(PairError, match=r"tensor spoilt.weight holds 1 numbers that are not finite"):
        digest_of(headers)


@pytest.mark.slow
def test_build_names_the_tensor_before_anything_is_compiled(hsexport, pair, tmp_path):
    large, small = pair
    file = next((large / "text_encoder").glob("*.safetensors"))
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if "token_embedding" in name)
    tensors[name][1, 0] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    done = hsexport("build", "--large", large, "--small", small, "--out", tmp_path / "b", "--cache", tmp_path / "c")
    assert done.returncode == 1
    assert f"tensor {name} holds 1 numbers that are not finite" in done.stderr
    assert "compile" not in done.stderr


def test_tensor_that_no_such_transformer_has_is_named(pair):
    file = next((pair[0] / "transformer").glob("*.safetensors"))
    save_file(load_file(file) | {"transformer_blocks.0.extra.weight": torch.zeros(2)}, file)
    with pytest.raises(PairError, match=r"holds transformer_blocks\.0\.extra\.weight, which no SD3 transformer has"):
        load_pair(*map(str, pair))


@pytest.mark.parametrize(
    ("rename", "words"),
    [
        (lambda name: f"model.diffusion_model.{name}", "names of a single-file checkpoint"),
        (lambda name: name.replace("to_q.weight", "to_q.base_layer.weight"), "a PEFT adapter is injected"),
    ],
    ids=["single-file names", "injected adapter"],
)
def test_names_of_another_layout_are_told(pair, rename, words):
    file = next((pair[0] / "transformer").glob("*.safetensors"))
    save_file({rename(name): tensor for name, tensor in load_file(file).items()}, file)
    with pytest.raises(PairError, match=words):
        load_pair(*map(str, pair))


def edit(file, **settings):
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize("value", [10**9, 10**300, float("inf"), 1e300, "many", None, True, -1])
def test_absurd_count_of_layers_is_told(pair, value):
    edit(pair[0] / "transformer" / "config.json", num_layers=value)
    with pytest.raises(PairError, match="num_layers"):
        load_pair(*map(str, pair))


def test_layer_number_without_end_costs_nothing(pair):
    """Its range, as a list, would take gigabytes."""
    file = next((pair[0] / "transformer").glob("*.safetensors"))
    save_file(load_file(file) | {"transformer_blocks.1000000000.attn.to_q.weight": torch.zeros(2)}, file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PairError, match="1000000000"):
        load_pair(*map(str, pair))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


@pytest.mark.parametrize("shift", [0, -3, 1e300, float("nan"), 10**400])
def test_absurd_shift_is_told(pair, shift):
    for folder in pair:
        file = folder / "scheduler" / "scheduler_config.json"
        if file.exists():
            edit(file, shift=shift)
    with pytest.raises(PairError, match=r"has shift .*, expected a number from 0.001 to 1000"):
        load_pair(*map(str, pair))


def test_pipe_as_a_document_is_refused_unread(pair):
    file = pair[0] / "transformer" / "config.json"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(PairError, match=r"config.json is not a plain file"):
        load_pair(*map(str, pair))


def test_document_without_end_is_refused_unread(pair):
    with (pair[0] / "transformer" / "config.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(PairError, match=r"config.json has \d+ bytes, allowed are"):
        load_pair(*map(str, pair))


def test_nested_document_is_told(pair):
    (pair[0] / "transformer" / "config.json").write_text("[" * 200_000)
    with pytest.raises(PairError, match=r"config.json is not JSON"):
        load_pair(*map(str, pair))


def test_facts_that_no_bundle_can_hold_are_told_before_the_build(pair, tmp_path):
    large, small = map(str, pair)
    request = BuildRequest(large=large, small=small, out=tmp_path / "b", cache=tmp_path / "c", guidance_scale=1e30)
    with pytest.raises(RecipeError, match="guidance"):
        recipe_for(request)


def test_code_that_a_tokenizer_brings_is_not_run_and_nobody_is_asked(hsexport, pair, tmp_path):
    large, small = pair
    marker = tmp_path / "ran"
    folder = large / "tokenizer"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}, tokenizer_class="Evil")
    done = hsexport(
        "build", "--large", large, "--small", small, "--out", tmp_path / "b", "--cache", tmp_path / "c", input="y\n" * 9
    )
    assert not marker.exists()
    assert "[y/N]" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
