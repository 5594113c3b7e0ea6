"""A transformer out of a single-file checkpoint, as Black Forest Labs ships klein, or in fp8 or GGUF: by its header."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from hsexport.checkpoints.documents import AGAIN, PairError
from hsexport.checkpoints.shards import Place, TensorHeader
from hsexport.families.flux2.config import FAMILY, TransformerConfig, check_settings, shapes_of
from hsexport.families.shared.places import cut, halves_swapped, inside, renamed, tensors_of
from hsexport.families.shared.single_file import extents, heads_of, layers_with, own_tensors, placed

JOINT, SINGLE = "double_blocks", "single_blocks"
A_NORM = f"{JOINT}.0.img_attn.norm.query_norm"


def read_single_file(file: Path) -> tuple[TransformerConfig, dict[str, TensorHeader]]:
    """The transformer's configuration, inferred from shapes, and its tensors by diffusers' names. Raises PairError.

    What no shape tells is as in every klein: four positions of equal widths, rope_theta and eps by diffusers' defaults.
    Whether it is drawn without guidance no file says: is_distilled is False.
    """
    ours = own_tensors(file, "flux2")
    scales = "weight" if f"{A_NORM}.weight" in ours else "scale"  # Black Forest Labs' own are called scale
    config = _config_from(file, ours, scales)
    check_settings(config, str(file))
    places = places_of(config, scales)
    tensors = placed(file, ours, places, "FLUX.2 klein", FAMILY)
    for name, shape in shapes_of(config).items():
        if (found := tensors[name].shape) != shape:
            source = ours[places[name].source]
            told = f"{file} is a broken checkpoint: tensor {source.name} is {list(source.shape)}"
            raise PairError(f"{told}, which makes {name} {list(found)}, expected {list(shape)}", AGAIN)
    return config, tensors


def _config_from(file: Path, tensors: Mapping[str, TensorHeader], scales: str) -> TransformerConfig:
    shape = partial(extents, file, tensors)
    width, channels = shape("img_in.weight", 2)
    (head_size,) = shape(f"{A_NORM}.{scales}", 1)
    gated = shape(f"{JOINT}.0.img_mlp.0.weight", 2)[0]  # twice the inner width: half of it is the gate
    return TransformerConfig(
        in_channels=channels,
        num_layers=len(layers_with(tensors, JOINT, "img_attn.qkv.weight")),
        num_single_layers=len(layers_with(tensors, SINGLE, "linear1.weight")),
        attention_head_dim=head_size,
        num_attention_heads=heads_of(file, width, head_size),
        joint_attention_dim=shape("txt_in.weight", 2)[1],
        timestep_guidance_channels=shape("time_in.in_layer.weight", 2)[1],
        mlp_ratio=gated / 2 / width,
        axes_dims_rope=(head_size // 4,) * 4,
        guidance_embeds=any(name.startswith("guidance_in.") for name in tensors),
    )


# The renaming is that of diffusers' convert_flux2_transformer_checkpoint_to_diffusers.
OUTSIDE = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "proj_out": "final_layer.linear",
}
IN_JOINT = {
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.to_out.0": "img_attn.proj",
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "attn.to_add_out": "txt_attn.proj",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
}
FUSED: dict[tuple[str, ...], str] = {
    ("attn.to_q", "attn.to_k", "attn.to_v"): "img_attn.qkv",
    ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"): "txt_attn.qkv",
}
IN_SINGLE = {
    "attn.to_qkv_mlp_proj": "linear1",
    "attn.to_out": "linear2",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
}


def places_of(config: TransformerConfig, scales: str = "scale") -> dict[str, Place]:
    """Diffusers' name of each tensor that such a transformer has -> its place; `scales`: what norms call theirs."""
    norm, linear = {"weight": scales}, {"weight": "weight"}
    return tensors_of(_modules_of(config), lambda module: norm if ".norm_" in module else linear)


def _modules_of(config: TransformerConfig) -> Iterator[tuple[str, Place]]:
    yield from renamed(OUTSIDE)
    yield "norm_out.linear", halves_swapped("final_layer.adaLN_modulation.1")
    for layer in range(config.num_layers):
        yield from inside(f"transformer_blocks.{layer}", f"{JOINT}.{layer}", [*renamed(IN_JOINT), *cut(FUSED)])
    for layer in range(config.num_single_layers):
        yield from inside(f"single_transformer_blocks.{layer}", f"{SINGLE}.{layer}", renamed(IN_SINGLE))
