"""What lies in a part's folder, by diffusers' and transformers' names; a T5 in a GGUF file has llama.cpp's."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from hsexport.checkpoints.shards import TensorHeader, read_headers

ARCHITECTURES = ("t5encoder", "t5")
"""What a GGUF file of one is called, without its decoder and with it."""
DECODER = ("dec.", "output.")
OUTSIDE = {"token_embd.weight": "shared.weight", "enc.output_norm.weight": "encoder.final_layer_norm.weight"}
IN_BLOCK = re.compile(r"enc\.blk\.(\d{1,4})\.(\w+)\.weight")
MODULES = {
    "attn_norm": "layer.0.layer_norm",
    "attn_q": "layer.0.SelfAttention.q",
    "attn_k": "layer.0.SelfAttention.k",
    "attn_v": "layer.0.SelfAttention.v",
    "attn_o": "layer.0.SelfAttention.o",
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "ffn_norm": "layer.1.layer_norm",
    "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1",
    "ffn_down": "layer.1.DenseReluDense.wo",
}


def part_headers(folder: Path, kind: str) -> dict[str, TensorHeader]:
    """The weights in a part's folder; `kind` is its encoder's, and only "t5" may be a GGUF file. Raises PairError."""
    if kind != "t5":
        return read_headers(folder, ())
    found = read_headers(folder, ARCHITECTURES)
    named = {transformers_name(name): header for name, header in found.items() if not name.startswith(DECODER)}
    return {name: replace(header, name=name) for name, header in named.items()}


def transformers_name(name: str) -> str:
    """What transformers calls a tensor of llama.cpp's; any other name as it is."""
    match = IN_BLOCK.fullmatch(name)
    if match and match[2] in MODULES:
        return f"encoder.block.{match[1]}.{MODULES[match[2]]}.weight"
    return OUTSIDE.get(name, name)
