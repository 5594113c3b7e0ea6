"""An SD3 transformer of diffusers written under Stability's own names: fused projections, turned modulations."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

PREFIX = "model.diffusion_model."
PLAIN = [
    ("time_text_embed.timestep_embedder.linear_", "t_embedder.mlp."),
    ("time_text_embed.text_embedder.linear_", "y_embedder.mlp."),
    ("pos_embed.proj.", "x_embedder.proj."),
    ("pos_embed.pos_embed", "pos_embed"),
    ("proj_out.", "final_layer.linear."),
    ("norm_out.linear.", "final_layer.adaLN_modulation.1."),
    ("transformer_blocks.", "joint_blocks."),
    (".norm1_context.linear.", ".context_block.adaLN_modulation.1."),
    (".norm1.linear.", ".x_block.adaLN_modulation.1."),
    (".ff_context.net.0.proj.", ".context_block.mlp.fc1."),
    (".ff_context.net.2.", ".context_block.mlp.fc2."),
    (".ff.net.0.proj.", ".x_block.mlp.fc1."),
    (".ff.net.2.", ".x_block.mlp.fc2."),
    (".attn.to_add_out.", ".context_block.attn.proj."),
    (".attn.to_out.0.", ".x_block.attn.proj."),
    (".attn2.to_out.0.", ".x_block.attn2.proj."),
    (".attn.norm_added_", ".context_block.attn.ln_"),
    (".attn.norm_", ".x_block.attn.ln_"),
    (".attn2.norm_", ".x_block.attn2.ln_"),
]
FUSED = [
    (".attn.to_{}.", ".x_block.attn.qkv."),
    (".attn.add_{}_proj.", ".context_block.attn.qkv."),
    (".attn2.to_{}.", ".x_block.attn2.qkv."),
]


def write_twin(transformer: Path, file: Path, *, prefix=PREFIX, dtype=None, **extra) -> Path:
    """The weights of diffusers' folder `transformer` as `file`, with `extra` tensors beside them."""
    (weights,) = transformer.glob("*.safetensors")
    twin = {prefix + name: tensor.to(dtype) for name, tensor in stability_state(load_file(weights)).items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in (twin | extra).items()}, file)
    return file


def stability_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict under Stability's names."""
    last = max(int(name.split(".")[1]) for name in state if name.startswith("transformer_blocks."))
    turned = ("norm_out.", f"transformer_blocks.{last}.norm1_context.")
    left = {name: _turned(t) if name.startswith(turned) else t for name, t in state.items()}
    twin = {}
    for theirs, ours in FUSED:
        for name in [name for name in left if theirs.format("q") in name]:
            cut = [left.pop(name.replace(theirs.format("q"), theirs.format(which))) for which in "qkv"]
            twin[_renamed(name.replace(theirs.format("q"), ours))] = torch.cat(cut)
    return twin | {_renamed(name): tensor for name, tensor in left.items()}


def _turned(tensor: torch.Tensor) -> torch.Tensor:
    half = len(tensor) // 2
    return torch.cat([tensor[half:], tensor[:half]])


def _renamed(name: str) -> str:
    for theirs, ours in PLAIN:
        name = name.replace(theirs, ours)
    for stem in ("t_embedder.mlp.", "y_embedder.mlp."):
        name = name.replace(f"{stem}1.", f"{stem}0.")  # diffusers counts the linear layers, Stability all three
    return name
