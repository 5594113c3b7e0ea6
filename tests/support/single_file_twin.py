"""Transformers of diffusers under the names of those who train them: fused projections, turned modulations.

`stability_state` has SD3's, `black_forest_state` FLUX.2's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

PREFIX = "model.diffusion_model."
State = dict[str, torch.Tensor]
STABILITY = [
    # diffusers counts the linear layers, Stability all three
    ("time_text_embed.timestep_embedder.linear_1.", "t_embedder.mlp.0."),
    ("time_text_embed.timestep_embedder.linear_2.", "t_embedder.mlp.2."),
    ("time_text_embed.text_embedder.linear_1.", "y_embedder.mlp.0."),
    ("time_text_embed.text_embedder.linear_2.", "y_embedder.mlp.2."),
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
STABILITY_FUSED = [
    (".attn.to_{}.", ".x_block.attn.qkv."),
    (".attn.add_{}_proj.", ".context_block.attn.qkv."),
    (".attn2.to_{}.", ".x_block.attn2.qkv."),
]


BLACK_FOREST = [
    ("x_embedder.", "img_in."),
    ("context_embedder.", "txt_in."),
    ("time_guidance_embed.timestep_embedder.linear_1.", "time_in.in_layer."),
    ("time_guidance_embed.timestep_embedder.linear_2.", "time_in.out_layer."),
    ("_modulation_img.linear.", "_modulation_img.lin."),
    ("_modulation_txt.linear.", "_modulation_txt.lin."),
    ("single_stream_modulation.linear.", "single_stream_modulation.lin."),
    ("norm_out.linear.", "final_layer.adaLN_modulation.1."),
    ("proj_out.", "final_layer.linear."),
    ("single_transformer_blocks.", "single_blocks."),
    ("transformer_blocks.", "double_blocks."),
    (".attn.to_qkv_mlp_proj.", ".linear1."),
    (".attn.to_out.0.", ".img_attn.proj."),
    (".attn.to_out.", ".linear2."),
    (".attn.to_add_out.", ".txt_attn.proj."),
    (".ff.linear_in.", ".img_mlp.0."),
    (".ff.linear_out.", ".img_mlp.2."),
    (".ff_context.linear_in.", ".txt_mlp.0."),
    (".ff_context.linear_out.", ".txt_mlp.2."),
    (".attn.norm_added_q.weight", ".txt_attn.norm.query_norm.scale"),
    (".attn.norm_added_k.weight", ".txt_attn.norm.key_norm.scale"),
    (".attn.norm_q.weight", ".img_attn.norm.query_norm.scale"),
    (".attn.norm_k.weight", ".img_attn.norm.key_norm.scale"),
]
BLACK_FOREST_FUSED = [(".attn.to_{}.", ".img_attn.qkv."), (".attn.add_{}_proj.", ".txt_attn.qkv.")]


def stability_state(state: State) -> State:
    """The state dict under Stability's names."""
    last = max(int(name.split(".")[1]) for name in state if name.startswith("transformer_blocks."))
    turned = ("norm_out.", f"transformer_blocks.{last}.norm1_context.")
    return _state(state, turned, STABILITY, STABILITY_FUSED)


def black_forest_state(state: State) -> State:
    """The state dict under Black Forest Labs' names."""
    twin = _state(state, ("norm_out.",), BLACK_FOREST, BLACK_FOREST_FUSED)
    single = "single_blocks."
    return {n.replace(".img_attn.norm.", ".norm.") if n.startswith(single) else n: t for n, t in twin.items()}


def write_twin(
    transformer: Path,
    file: Path,
    *,
    prefix: str = PREFIX,
    dtype: torch.dtype | None = None,
    names: Callable[[State], State] = stability_state,
    **extra: torch.Tensor,
) -> Path:
    """The weights of diffusers' folder `transformer` as `file`, with `extra` tensors beside them."""
    (weights,) = transformer.glob("*.safetensors")
    twin = {prefix + name: tensor.to(dtype) for name, tensor in names(load_file(weights)).items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in (twin | extra).items()}, file)
    return file


def write_hollow_twin(file: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """A bf16 file of these shapes, all of it one hole but for the header."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        header[PREFIX + name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [end, end + 2 * tensor.numel()],
        }
        end += 2 * tensor.numel()
    raw = json.dumps(header).encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw)
    os.truncate(file, 8 + len(raw) + end)
    return file


Renames = list[tuple[str, str]]


def _state(state: State, turned: tuple[str, ...], renames: Renames, fused: Renames) -> State:
    left = {name: _turned(tensor) if name.startswith(turned) else tensor for name, tensor in state.items()}
    twin = {}
    for theirs, ours in fused:
        for name in [name for name in left if theirs.format("q") in name]:
            cut = [left.pop(name.replace(theirs.format("q"), theirs.format(which))) for which in "qkv"]
            twin[_renamed(name.replace(theirs.format("q"), ours), renames)] = torch.cat(cut)
    return twin | {_renamed(name, renames): tensor for name, tensor in left.items()}


def _turned(tensor: torch.Tensor) -> torch.Tensor:
    half = len(tensor) // 2
    return torch.cat([tensor[half:], tensor[:half]])


def _renamed(name: str, renames: Renames) -> str:
    for theirs, ours in renames:
        name = name.replace(theirs, ours)
    return name
