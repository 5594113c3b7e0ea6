import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.shards import digest_of, find_weights, read_headers

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "c": torch.zeros(0)}
SINGLE = "diffusion_pytorch_model.safetensors"
INDEX = "diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture
def single(tmp_path):
    """One file of three tensors."""
    (tmp_path / "single").mkdir()
    save_file(TENSORS, tmp_path / "single" / SINGLE)
    return tmp_path / "single"


@pytest.fixture
def sharded(tmp_path):
    """The same three tensors in two files, with metadata of their own."""
    return write_shards(tmp_path / "sharded", "")


def write_shards(directory, mark):
    directory.mkdir()
    names = [f"diffusion_pytorch_model{mark}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    save_file({"c": TENSORS["c"], "b": TENSORS["b"]}, directory / names[0], metadata={"written": "later"})
    save_file({"a": TENSORS["a"]}, directory / names[1])
    index = {"metadata": {}, "weight_map": {"a": names[1], "b": names[0], "c": names[0]}}
    (directory / f"diffusion_pytorch_model.safetensors.index{mark}.json").write_text(json.dumps(index))
    return directory


def write_raw(file, header, data=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + data)


def test_headers_tell_names_dtypes_and_shapes(single):
    headers = read_headers(single)
    assert {name: (header.dtype, header.shape) for name, header in headers.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("BF16", (4,)),
        "c": ("F32", (0,)),
    }
    assert headers["a"].file == single / SINGLE
    assert headers["a"].elements == 6


def test_header_offsets_reach_the_data(single):
    header = read_headers(single)["a"]
    ((offset, size),) = header.pieces
    raw = header.file.read_bytes()[offset : offset + size]
    assert raw == struct.pack("<6f", *range(6))


def test_shards_read_as_one(single, sharded):
    assert {name: header.shape for name, header in read_headers(sharded).items()} == {
        name: header.shape for name, header in read_headers(single).items()
    }


def weights_digest(component):
    return digest_of(read_headers(component))


def test_digest_ignores_sharding_and_metadata(single, sharded):
    assert weights_digest(single) == weights_digest(sharded)


@pytest.mark.parametrize(
    "other",
    [
        TENSORS | {"a": TENSORS["a"] + 1},
        TENSORS | {"a": TENSORS["a"].reshape(3, 2)},
        TENSORS | {"b": TENSORS["b"].view(torch.int16)},
        {name.replace("c", "d"): tensor for name, tensor in TENSORS.items()},
    ],
    ids=["data", "shape", "dtype", "name"],
)
def test_digest_sees(single, other):
    before = weights_digest(single)
    save_file(other, single / SINGLE)
    assert weights_digest(single) != before


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_variant_is_read_where_there_is_nothing_else(tmp_path, single, variant):
    plain = weights_digest(single)
    (single / SINGLE).rename(single / f"diffusion_pytorch_model.{variant}.safetensors")
    assert weights_digest(single) == weights_digest(write_shards(tmp_path / variant, f".{variant}")) == plain


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_full_weights_win_over_a_variant(single, variant):
    save_file({"a": torch.zeros(1)}, single / f"diffusion_pytorch_model.{variant}.safetensors")
    assert find_weights(single)[0] == (single / SINGLE,)


def test_missing_shard_and_its_index_are_named(sharded):
    (sharded / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        PairError, match=rf"shard diffusion_pytorch_model-00002-of-00002.safetensors is missing.*{INDEX}"
    ):
        read_headers(sharded)


@pytest.mark.parametrize(
    ("weight_map", "fault"),
    [
        ({"z": "shard.safetensors"}, r"places tensor z in shard.safetensors, which does not hold it"),
        ({"a": "../x/shard.safetensors"}, r"shard \.\./x/shard.safetensors is missing"),
        (None, r"has no weight_map"),
    ],
)
def test_lying_index_is_told(tmp_path, weight_map, fault):
    directory = tmp_path / "x"
    directory.mkdir()
    save_file({"a": torch.zeros(1)}, directory / "shard.safetensors")
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(PairError, match=fault):
        read_headers(directory)


@pytest.mark.parametrize("kept", [3, 40, -1])
def test_truncated_file_tells_expected_and_found_bytes(single, kept):
    whole = (single / SINGLE).read_bytes()
    (single / SINGLE).write_bytes(whole[:kept])
    found = len(whole[:kept])
    with pytest.raises(PairError, match=rf"{SINGLE} is truncated: expected at least \d+ bytes, found {found}"):
        read_headers(single)


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        (b"\xff\xfe not json", "its header is not JSON"),
        ([1, 2], "its header is not an object"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "tensor a has a broken header entry"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, r"tensor a F32\[2\] has 4 bytes, not 8"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, "tensor a"),
    ],
)
def test_garbled_header_is_told(tmp_path, header, fault):
    write_raw(tmp_path / SINGLE, header, b"\0" * 8)
    with pytest.raises(PairError, match=rf"{SINGLE}.*{fault}"):
        read_headers(tmp_path)


def test_absurd_header_length_is_not_read(tmp_path):
    (tmp_path / SINGLE).write_bytes(b"\xff" * 64)
    with pytest.raises(PairError, match="is not a safetensors file: its header would be"):
        read_headers(tmp_path)


def test_git_lfs_pointer_is_told(tmp_path):
    (tmp_path / SINGLE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(PairError, match=r"is a git-lfs pointer.*git lfs pull"):
        read_headers(tmp_path)


def test_pickles_are_refused_with_the_way_to_convert(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(PairError, match=r"pytorch_model.bin.*pickles are not read; convert.*save_pretrained"):
        read_headers(tmp_path)


def test_nothing_there_is_told(tmp_path):
    with pytest.raises(PairError, match=r"holds no weights: found no \*.safetensors"):
        read_headers(tmp_path)
