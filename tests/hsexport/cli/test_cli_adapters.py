"""`hsexport run --lora`: merged when the bundle is opened, and what cannot be is told in one line."""

import json

from lora_files import lora_of
from one_line import told_in_one_line
from safetensors.numpy import save_file


def test_command_line_merges_and_refuses_in_one_line(hsexport, tiny_bundle, tiny_pair_dirs, tmp_path):
    file, broken = tmp_path / "style.safetensors", tmp_path / "broken.safetensors"
    save_file(lora_of(tiny_pair_dirs[0], ["proj_out"]), file)
    broken.write_bytes(b"no safetensors")
    common = ("run", tiny_bundle, "--prompt", "red", "--schedule", "large:1,small:1", "--out", tmp_path / "p.png")
    done = hsexport(*common, "--lora", f"{file}:0.5", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["adapters"] == ["style:0.5"]
    told_in_one_line(hsexport(*common, "--lora", broken), "broken.safetensors")
    told_in_one_line(hsexport(*common, "--lora", "nowhere.safetensors"), "nowhere.safetensors cannot be read")
    assert (
        "LoRAs at run time for large, small, text_encoder, text_encoder_2, text_encoder_3"
        in hsexport("inspect", tiny_bundle).stdout
    )
