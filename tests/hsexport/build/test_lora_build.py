"""A bundle with a LoRA beside one of a checkpoint into which torch fused it."""

import json

import numpy as np
import pytest
import torch
from one_line import told_in_one_line
from safetensors.torch import load_file, save_file

MODULES = ("transformer_blocks.0.attn.to_q", "transformer_blocks.1.norm1.linear", "pos_embed.proj", "proj_out")


@pytest.fixture(scope="module")
def lora(tiny_pair_dirs, tmp_path_factory):
    """(LoRA file, the same pair's large with the LoRA fused in half)."""
    import shutil

    root = tmp_path_factory.mktemp("lora")
    merged = root / "merged"
    shutil.copytree(tiny_pair_dirs[0], merged)
    (file,) = (merged / "transformer").glob("*.safetensors")
    tensors, random, adapter = load_file(file), torch.Generator().manual_seed(0), {}
    for module in MODULES:
        weight = tensors[f"{module}.weight"]
        down = torch.randn(2, *weight.shape[1:], generator=random)
        up = torch.randn(len(weight), 2, *[1] * (weight.ndim - 2), generator=random)
        adapter |= {f"transformer.{module}.lora_A.weight": down, f"transformer.{module}.lora_B.weight": up}
        tensors[f"{module}.weight"] = weight + 0.5 * torch.einsum("or,r...->o...", up.flatten(1), down)
    save_file(tensors, file, metadata={"format": "pt"})
    save_file(adapter, root / "style.safetensors")
    return root / "style.safetensors", merged


@pytest.mark.slow
def test_lora_bundle_holds_the_weights_of_the_fused_checkpoint(hsexport, lora, tiny_pair_dirs, tiny_cache, tmp_path):
    style, merged = lora
    common = ["--small", tiny_pair_dirs[1], "--cache", tiny_cache]
    fused, expected = tmp_path / "fused", tmp_path / "expected"
    done = hsexport("build", "--large", tiny_pair_dirs[0], "--lora", f"{style}:0.5", "--out", fused, *common)
    assert done.returncode == 0, done.stderr
    done = hsexport("build", "--large", merged, "--out", expected, *common)
    assert done.returncode == 0, done.stderr
    ours, theirs = (np.fromfile(b / "engines" / "large.onnx.data", np.float32) for b in (fused, expected))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)  # two orders of summation in float32
    (adapter,) = json.loads((fused / "manifest.json").read_text())["facts"]["large"]["adapters"]
    assert (adapter["name"], adapter["scale"]) == ("style.safetensors", 0.5)
    assert "LoRA style.safetensors fused 0.5 times" in hsexport("inspect", fused).stdout
    named = ["--large", tiny_pair_dirs[0], "--small", tiny_pair_dirs[1]]
    assert hsexport("verify", fused, *named, "--lora", f"{style}:0.5").returncode == 0
    told_in_one_line(hsexport("verify", fused, *named), "large has adapters none", "style.safetensors", "0.5 times")
