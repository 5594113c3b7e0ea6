"""Text encoders, their join, and the VAE's two halves as networks of a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsengines.spec import EngineSpec, Profile, TensorSpec
from hsexport.checkpoints.documents import told_by_folder
from hsexport.families.recipe import Recipe
from hsexport.families.sd3.counts import encoder_operations
from hsexport.families.sd3.fp32_blocks import T5
from hsexport.families.sd3.parts import TEXT_ENCODERS, EncoderConfig
from hsexport.families.sd3.text import encoders_of
from hsexport.families.sd3.weight_rules import TEXT, TEXT_TABLES
from hsexport.families.sd3.weights import text_weights, vae_weights
from hsexport.families.shared.vae_networks import Half, vae_networks
from hsexport.families.shared.weights import config_fact
from hsexport.networks.network import Network
from hsruntime.facts import TextSlot

if TYPE_CHECKING:
    from torch import nn


def text_encoder_networks(recipe: Recipe) -> list[Network]:
    """The text encoders at their full padded lengths; B counts prompts and negative prompts together."""
    encoders = {encoder.name: encoder for encoder in encoders_of(recipe.pair)}
    return [_text_encoder(recipe, slot, encoders[slot.engine]) for slot in recipe.facts.slots]


def _text_encoder(recipe: Recipe, slot: TextSlot, encoder: EncoderConfig) -> Network:
    length = slot.length
    outputs = [_states("states", length, encoder.hidden)]
    if encoder.projection:
        outputs.append(TensorSpec("pooled", "float32", ("B", encoder.projection)))
    ids = TensorSpec("ids", "int32", ("B", length))
    return Network(
        EngineSpec(encoder.name, (ids,), tuple(outputs), _text_profile(recipe)),
        lambda: _encoder_skeleton(encoder),
        {"B": 3},
        {"ids": encoder.vocabulary},
        weights=text_weights(recipe, slot, encoder),
        facts=config_fact(encoder.document),
        narrow_tensors=("states", "pooled"),
        fp32_blocks=T5 if encoder.kind == "t5" else (),
        weight_rules=TEXT,
        tables=TEXT_TABLES,
        group="text",
        operations=lambda shapes, dims: encoder_operations(shapes, dims, length),
    )


def join_text_network(recipe: Recipe) -> Network:
    """All encoders' states and pooled answers joined as the transformers take them."""
    width, side = recipe.pair.large.config.joint_attention_dim, recipe.facts.text[recipe.facts.large.text]
    encoders, slots = {encoder.name: encoder for encoder in encoders_of(recipe.pair)}, side.encoders
    inputs: list[TensorSpec] = []
    for slot in slots:
        encoder = encoders[slot.engine]
        inputs.append(_states(slot.into["states"], slot.length, encoder.hidden))
        if encoder.projection:
            inputs.append(TensorSpec(slot.into["pooled"], "float32", ("B", encoder.projection)))
    if len(slots) < len(TEXT_ENCODERS):  # the place of a T5 that is left out
        inputs.append(_states(f"states_{len(TEXT_ENCODERS)}", side.tokens - slots[0].length, width))
    pooled = sum(encoders[slot.engine].projection for slot in slots)
    outputs = (_states("text", side.tokens, width), TensorSpec("pooled", "float32", ("B", pooled)))

    def skeleton() -> nn.Module:
        from hsexport.families.sd3.encoder_modules import JoinText

        return JoinText(width)

    spec = EngineSpec("join_text", tuple(inputs), outputs, _text_profile(recipe))
    return Network(spec, skeleton, {"B": 3}, narrow_tensors=("*",))


def vae_network_pair(recipe: Recipe) -> list[Network]:
    """The VAE's decoder and encoder."""
    vae, folder = recipe.pair.parts["vae"], recipe.pair.shared["vae"]

    def skeleton(module: str) -> nn.Module:
        from accelerate import init_empty_weights
        from diffusers import AutoencoderKL

        from hsexport.families.sd3 import encoder_modules

        with told_by_folder(folder), init_empty_weights():
            made: nn.Module = getattr(encoder_modules, module)(
                AutoencoderKL.from_config(AutoencoderKL.load_config(folder))
            )
            return made.float()

    halves = (
        Half(lambda: skeleton("VaeDecoder"), vae_weights(folder, ("decoder.", "post_quant_conv."))),
        Half(lambda: skeleton("VaeEncoder"), vae_weights(folder, ("encoder.", "quant_conv."))),
    )
    return vae_networks(recipe, *halves, vae.document, vae.block_out_channels)


def _states(name: str, length: int, width: int) -> TensorSpec:
    return TensorSpec(name, "float32", ("B", length, width))


def _text_profile(recipe: Recipe) -> tuple[Profile, ...]:
    return (Profile("all", {"B": recipe.ranges()["G"]}),)


def _encoder_skeleton(encoder: EncoderConfig) -> nn.Module:
    from accelerate import init_empty_weights
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    from hsexport.families.sd3.encoder_modules import ClipEncoder, T5Encoder

    # Parameters alone: CLIP counts its positions itself, and nothing would bring those numbers back.
    with told_by_folder(encoder.folder), init_empty_weights(include_buffers=False):
        if encoder.kind == "clip":
            return ClipEncoder(CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(encoder.folder))).float()
        config = T5Config.from_pretrained(encoder.folder)
        # Eager attention: the fused one's output strides trip torch.export's decomposition (transformers 5.23).
        config._attn_implementation = "eager"
        return T5Encoder(T5EncoderModel(config)).float()  # whatever type the configuration names
