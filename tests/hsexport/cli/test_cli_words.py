"""What people type and where it goes wrong: a line that says what to do."""

import shutil
import subprocess
import sys

import pytest
import torch
from one_line import told_in_one_line
from safetensors.torch import load_file, save_file

from hsexport import __version__
from hsexport.checkpoints.documents import PairError
from hsexport.cli.build_options import adapter_from_text
from hsexport.families.pair import load_pair, quantised_members
from hsexport.families.sd3.weights import vae_weights
from hsexport.families.shared.weights import MODERN


def test_version_and_short_help(hsexport):
    assert hsexport("--version").stdout.split() == ["hsexport,", "version", __version__]
    assert hsexport("-h").stdout == hsexport("--help").stdout
    assert hsexport("run", "-h").stdout == hsexport("run", "--help").stdout


@pytest.mark.parametrize(
    ("out", "words"),
    [("x.jpg", "pictures are written as PNG; name it x.png"), ("-", "not to stdout"), ("/", "is a directory")],
)
def test_out_that_is_no_png_is_told_before_the_work(hsexport, tiny_bundle, tmp_path, out, words):
    done = hsexport("run", tiny_bundle, "--prompt", "red", "--out", out, cwd=tmp_path)
    told_in_one_line(done, words)
    assert done.stderr.count("\n") == 1, "nothing but the line"
    assert list(tmp_path.iterdir()) == []


def test_negative_threads_are_a_usage_error(hsexport, tiny_bundle):
    assert hsexport("run", tiny_bundle, "--prompt", "red", "--threads", "-3").returncode == 2


def test_more_steps_than_levels_are_told_as_such(hsexport, tiny_pair_dirs, tmp_path):
    large, small = tiny_pair_dirs
    done = hsexport("plan", "--large", large, "--small", small, "--schedule", "large:5000")
    told_in_one_line(done, "the schedule has 5000 steps, the bundle takes 1000")


def test_file_with_a_colon_in_its_name_is_a_file(tmp_path):
    file = tmp_path / "a:0.5"
    file.touch()
    assert adapter_from_text(str(file)) == adapter_from_text(f"{file}:1")


def test_closed_stdout_is_no_traceback(tiny_bundle):
    command = f"{sys.executable} -m hsexport.cli.main inspect {tiny_bundle} >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True)
    assert "Traceback" not in done.stderr


@pytest.fixture
def pair(tiny_pair_dirs, tmp_path):
    return tuple(shutil.copytree(folder, tmp_path / folder.name) for folder in tiny_pair_dirs)


def test_shards_without_an_index_are_told(pair):
    file = next((pair[0] / "transformer").glob("*.safetensors"))
    file.rename(file.with_name("diffusion_pytorch_model-00001-of-00001.safetensors"))
    with pytest.raises(PairError, match="without the index that names their tensors"):
        load_pair(*map(str, pair))


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae"])
def test_fp8_in_any_part_is_read_and_told(pair, part):
    file = next((pair[0] / part).glob("*.safetensors"))
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, file)
    told = dict(quantised_members(load_pair(*map(str, pair))))
    assert told == {"large" if part == "transformer" else part: "1 tensor F8_E4M3"}


def test_attention_of_an_older_vae_is_read_by_its_older_names(pair):
    file = next((pair[0] / "vae").glob("*.safetensors"))
    before = vae_weights(pair[0] / "vae", ("decoder.", "encoder."))
    older = {modern: old for old, modern in MODERN.items()}
    renamed = {}
    for name, tensor in load_file(file).items():
        for modern, old in older.items():
            if "attentions." in name:
                name = name.replace(f".{modern}.", f".{old}.")
        renamed[name] = tensor
    assert renamed.keys() != load_file(file).keys()
    save_file(renamed, file)
    assert vae_weights(pair[0] / "vae", ("decoder.", "encoder.")).keys() == before.keys()
