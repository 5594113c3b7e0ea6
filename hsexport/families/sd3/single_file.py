"""A transformer out of a single-file checkpoint, as Stability ships SD3 and SD3.5, or in fp8 or GGUF: by its header."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from hsexport.checkpoints.documents import AGAIN, PairError
from hsexport.checkpoints.gguf_header import is_gguf
from hsexport.checkpoints.quantised import OTHERS, READABLE, block_bytes
from hsexport.checkpoints.shards import Place, TensorHeader, file_tensors
from hsexport.families.sd3.config import FAMILY, TransformerConfig, check_settings

PREFIX = "model.diffusion_model."
ARCHITECTURES = ("sd3",)
"""What a GGUF file of one is called."""
OTHER_PARTS = ("first_stage_model.", "text_encoders.", "vae.", "conditioner.", "cond_stage_model.")
SAMPLE_SIZE = 128  # what every SD3 was trained at; the file does not say
HEAD_SIZE = 64  # of SD3, whose queries are not normalised: their norm would tell
# Parts of tensors' names, what a file with such names is, and what to do; the first that occurs tells.
ADDITIONS = (
    (("lora_A", "lora_B", "lora_down", "lora_up", ".lokr_", ".hada_"), "a LoRA", "fuse it into a model: --lora {file}"),
    (("control_", "controlnet"), "a ControlNet", FAMILY),
)
OTHER_MODELS = (
    (("conditioner.embedders.",), "a Stable Diffusion XL checkpoint", FAMILY),
    (("input_blocks.", "down_blocks."), "a UNet, which SD3 does not have", FAMILY),
    (("double_blocks.", "single_transformer_blocks."), "a Flux checkpoint", FAMILY),
    (("double_layers.",), "an AuraFlow checkpoint", FAMILY),
    (("time_text_embed.",), "one file of a diffusers directory", "give the directory with its config.json: {parent}"),
)


def read_single_file(file: Path) -> tuple[TransformerConfig, dict[str, TensorHeader]]:
    """The transformer's configuration, inferred from shapes, and its tensors by diffusers' names.

    A tensor that diffusers cuts out of a fused one, or turns round, is pieces of the file: nothing is copied.
    The VAE and the text encoders that a file may hold beside the transformer are left.
    """
    found = file_tensors(file, ARCHITECTURES)
    _check_is_sd3(file, found.values())
    ours = {name.removeprefix(PREFIX): header for name, header in found.items() if name.startswith(PREFIX)}
    if not ours:  # files without the prefix hold little else
        ours = {name: header for name, header in found.items() if not name.startswith(OTHER_PARTS)}
    if is_gguf(file):
        ours |= _with_leading_extent(ours)
    config = _config_from(file, ours)
    check_settings(config, str(file))
    places = places_of(config)
    expected = {place.source for place in places.values()}
    # Silence would draw noise.
    if missing := sorted(expected - ours.keys()):
        raise PairError(f"{file} is a broken checkpoint: it lacks {missing[0]}", AGAIN)
    if foreign := sorted(ours.keys() - expected):
        raise PairError(f"{file} holds {foreign[0]}, which no SD3 transformer has", FAMILY)
    return config, {name: _taken(file, ours[place.source], place, name) for name, place in places.items()}


def _check_is_sd3(file: Path, headers: Iterable[TensorHeader]) -> None:
    """Refuses a file without an SD3 transformer, or with one in a type that is not read."""
    headers = list(headers)
    blocks = [header for header in headers if "joint_blocks." in header.name]
    for fragments, kind, hint in ADDITIONS if blocks else ADDITIONS + OTHER_MODELS:
        if any(fragment in header.name for header in headers for fragment in fragments):
            raise PairError(f"{file} is {kind}, expected an SD3 checkpoint", hint.format(file=file, parent=file.parent))
    if not blocks:
        raise PairError(f"{file} holds no joint_blocks, expected an SD3 checkpoint", FAMILY)
    for header in blocks:
        if header.dtype not in READABLE:
            raise PairError(f"{file}: tensor {header.name} is {header.dtype}, expected a float type", OTHERS)


def _with_leading_extent(tensors: Mapping[str, TensorHeader]) -> dict[str, TensorHeader]:
    """The position table (1, positions, width): ggml's own tools write no leading extent of 1."""
    table = tensors.get("pos_embed")
    return {table.name: replace(table, shape=(1, *table.shape))} if table and len(table.shape) == 2 else {}


def _config_from(file: Path, tensors: Mapping[str, TensorHeader]) -> TransformerConfig:
    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        found = tensors[name].shape if name in tensors else None
        if found is None or len(found) != dimensions or 0 in found:
            held = f"{list(found)}" if found is not None else "missing"
            raise PairError(f"{file} is a broken checkpoint: tensor {name} is {held}", AGAIN)
        return found

    width, channels, patch, _ = shape("x_embedder.proj.weight", 4)
    caption, joint = shape("context_embedder.weight", 2)
    table, head_size = math.isqrt(shape("pos_embed", 3)[1]), HEAD_SIZE
    normed = "joint_blocks.0.x_block.attn.ln_q.weight"
    if normed in tensors:
        (head_size,) = shape(normed, 1)
    if width % head_size:
        raise PairError(f"{file} has width {width}, expected a multiple of the head size {head_size}", FAMILY)
    qk_norm: Literal["rms_norm"] | None = "rms_norm" if normed in tensors else None
    return TransformerConfig(
        sample_size=min(SAMPLE_SIZE, patch * table),
        patch_size=patch,
        in_channels=channels,
        out_channels=shape("final_layer.linear.weight", 2)[0] // patch**2,
        num_layers=len(_layers_with(tensors, "x_block.attn.qkv.weight")),
        num_attention_heads=width // head_size,
        attention_head_dim=head_size,
        joint_attention_dim=joint,
        caption_projection_dim=caption,
        pooled_projection_dim=shape("y_embedder.mlp.0.weight", 2)[1],
        pos_embed_max_size=table,
        qk_norm=qk_norm,
        dual_attention_layers=_layers_with(tensors, "x_block.attn2.qkv.weight"),
    )


def _layers_with(tensors: Iterable[str], tensor: str) -> tuple[int, ...]:
    """The numbers of the blocks that have `tensor`, in ascending order."""
    parts = (name.split(".", 2) for name in tensors if name.startswith("joint_blocks.") and name.endswith(f".{tensor}"))
    return tuple(sorted(int(number) for _, number, rest in parts if number.isdecimal() and rest == tensor))


def _taken(file: Path, header: TensorHeader, place: Place, name: str) -> TensorHeader:
    if place.parts > 1 and (not header.shape or header.shape[0] % place.parts):
        raise PairError(
            f"{file} is a broken checkpoint: tensor {header.name} is {list(header.shape)}, "
            f"expected rows for {place.parts} tensors of one size",
            AGAIN,
        )
    if header.size_bytes % (place.parts * block_bytes(header)):
        told = f"{file}: tensor {header.name} is {header.dtype}{list(header.shape)}"
        raise PairError(f"{told}, whose blocks cannot be cut into {place.parts} tensors", OTHERS)
    return place.taken_from(header, name)


# The renaming is that of diffusers' convert_sd3_transformer_checkpoint_to_diffusers, without its copies.
OUTSIDE = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
}
IN_BLOCK = {
    "attn.to_out.0": "x_block.attn.proj",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
}
# The last block hands no text on: it has neither these, nor a gate in its modulation.
BUT_LAST = {
    "attn.to_add_out": "context_block.attn.proj",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
CONTEXT_NORM = ("norm1_context.linear", "context_block.adaLN_modulation.1")
FUSED = {
    ("attn.to_q", "attn.to_k", "attn.to_v"): "x_block.attn.qkv",
    ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"): "context_block.attn.qkv",
}
FUSED_DUAL = {("attn2.to_q", "attn2.to_k", "attn2.to_v"): "x_block.attn2.qkv"}
QK_NORM = {
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
}
QK_NORM_DUAL = {"attn2.norm_q": "x_block.attn2.ln_q", "attn2.norm_k": "x_block.attn2.ln_k"}


def places_of(config: TransformerConfig) -> dict[str, Place]:
    """Diffusers' name of each tensor that such a transformer has -> its place."""
    places = {"pos_embed.pos_embed": Place("pos_embed")}
    for module, place in _modules_of(config):
        kinds = ("weight",) if ".norm_" in module else ("weight", "bias")
        places |= {f"{module}.{kind}": replace(place, source=f"{place.source}.{kind}") for kind in kinds}
    return places


def _modules_of(config: TransformerConfig) -> Iterator[tuple[str, Place]]:
    for name, source in OUTSIDE.items():
        yield name, Place(source)
    yield "norm_out.linear", _halves_swapped("final_layer.adaLN_modulation.1")
    for layer in range(config.num_layers):
        for name, place in _block_of(config, layer):
            yield f"transformer_blocks.{layer}.{name}", replace(place, source=f"joint_blocks.{layer}.{place.source}")


def _block_of(config: TransformerConfig, layer: int) -> Iterator[tuple[str, Place]]:
    last, dual = layer == config.num_layers - 1, layer in config.dual_attention_layers
    whole = IN_BLOCK | ({} if last else BUT_LAST) | ({"attn2.to_out.0": "x_block.attn2.proj"} if dual else {})
    if config.qk_norm:
        whole |= QK_NORM | (QK_NORM_DUAL if dual else {})
    for name, source in whole.items():
        yield name, Place(source)
    for names, source in (FUSED | (FUSED_DUAL if dual else {})).items():
        for number, name in enumerate(names):
            yield name, Place(source, 3, (number,))
    name, source = CONTEXT_NORM
    yield name, _halves_swapped(source) if last else Place(source)


def _halves_swapped(source: str) -> Place:
    """Stability's modulations are (shift, scale), diffusers' AdaLayerNormContinuous takes (scale, shift)."""
    return Place(source, 2, (1, 0))
