import os
import shutil

import pytest

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.shards import read_headers
from hsexport.families.agreement import check_same_weights
from hsexport.families.pair import load_pair

PARTS = ["vae", "text_encoder", "text_encoder_2", "text_encoder_3"]


def nudge(tensors):
    """The last number of the last tensor by name, which is the last that anybody looks at."""
    tensors[max(tensors)].view(-1)[-1] += 1


def shared_bytes(root, parts=PARTS):
    return sum(header.size_bytes for part in parts for header in read_headers(root / part).values())


@pytest.fixture
def pair(tiny, whole):
    """Large as it was made, and small's whole pipeline as it lies there by then."""
    return lambda: load_pair(str(tiny[0]), str(whole))


def test_equal_weights_pass_and_are_read_once(tiny, pair):
    told = []
    check_same_weights(pair(), on_bytes=lambda *bytes_: told.append(bytes_))
    assert told[-1] == (shared_bytes(tiny[0]), shared_bytes(tiny[0]))
    assert told == sorted(told)


@pytest.mark.parametrize("part", PARTS)
def test_weights_that_differ_are_named_by_part_and_tensor(pair, whole, edit_weights, part):
    edit_weights(whole / part, nudge)
    tensor = max(read_headers(whole / part))
    with pytest.raises(
        PairError,
        match=rf"^{part} of large and small .*: tensor {tensor} holds other numbers in each;.*one model family",
    ):
        check_same_weights(pair())


def test_weights_of_a_part_left_out_are_not_compared(pair, whole, edit_weights):
    edit_weights(whole / "text_encoder_3", nudge)
    check_same_weights(pair(), ("text_encoder_3",))


def test_parts_that_are_one_directory_are_none_of_it(tiny, pair, whole):
    for part in PARTS:
        shutil.rmtree(whole / part)
        (whole / part).symlink_to(tiny[0] / part)
    told = []
    check_same_weights(pair(), on_bytes=lambda *bytes_: told.append(bytes_))
    assert told == []


def test_a_file_under_two_names_is_not_read(tiny, pair, whole, monkeypatch):
    for part in PARTS:
        for file in (whole / part).glob("*.safetensors"):
            file.unlink()
            os.link(tiny[0] / part / file.name, file)
    monkeypatch.setattr("hsexport.families.agreement.chunks_of", None)
    check_same_weights(pair())
