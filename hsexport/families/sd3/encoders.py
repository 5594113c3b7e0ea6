"""Text encoders, their join, and the VAE decoder as networks of a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsengines.spec import EngineSpec, Profile, TensorSpec
from hsexport.build.recipe import Recipe, TextPart
from hsexport.checkpoints.loading import told_by_folder
from hsexport.families.sd3.encoder_weights import config_fact, part_weights
from hsexport.families.sd3.fp32_blocks import T5
from hsexport.networks.network import Network

if TYPE_CHECKING:
    from torch import nn


def text_encoder_network(recipe: Recipe, part: TextPart) -> Network:
    """One text encoder at its full padded length; B counts prompts and negative prompts together."""
    length = part.slot.length
    outputs = [_states("states", length, part.hidden)]
    if part.kind == "clip":
        outputs.append(TensorSpec("pooled", "float32", ("B", part.projection)))
    ids = TensorSpec("ids", "int32", ("B", length))
    spec = EngineSpec(part.slot.engine, (ids,), tuple(outputs), _text_profile(recipe))
    limits = {"ids": part.vocabulary}
    return Network(
        spec,
        lambda: _encoder_skeleton(part),
        {"B": 3},
        limits,
        weights=part_weights(part.encoder, prefix="model.", kind=part.kind),
        facts=config_fact(part.encoder),
        narrow_tensors=("states", "pooled"),
        fp32_blocks=T5 if part.kind == "t5" else (),
    )


def join_text_network(recipe: Recipe) -> Network:
    """All encoders' states and pooled answers joined as the transformers take them."""
    width = recipe.pair.large.config.joint_attention_dim
    clips = [part for part in recipe.text if part.kind == "clip"]
    inputs: list[TensorSpec] = []
    for number, part in enumerate(clips, start=1):
        inputs.append(_states(f"states_{number}", part.slot.length, part.hidden))
        inputs.append(TensorSpec(f"pooled_{number}", "float32", ("B", part.projection)))
    inputs.append(_states("states_3", recipe.facts.text_tokens - recipe.text[0].slot.length, width))
    outputs = (
        _states("text", recipe.facts.text_tokens, width),
        TensorSpec("pooled", "float32", ("B", sum(part.projection for part in clips))),
    )

    def skeleton() -> nn.Module:
        from hsexport.families.sd3.encoder_modules import JoinText

        return JoinText(width)

    spec = EngineSpec("join_text", tuple(inputs), outputs, _text_profile(recipe))
    return Network(spec, skeleton, {"B": 3}, narrow_tensors=("*",))


def vae_decoder_network(recipe: Recipe) -> Network:
    """Latents of any height and width in the profile to pictures."""
    latent, ranges, folder = recipe.facts.latent, recipe.ranges(), recipe.pair.shared["vae"]
    scale = latent.vae_scale
    spec = EngineSpec(
        "vae_decoder",
        (TensorSpec("latents", "float32", ("B", latent.channels, "h", "w")),),
        (TensorSpec("pictures", "float32", ("B", f"{scale}*h", f"{scale}*w", 3)),),
        (Profile("all", {name: ranges[name] for name in ("B", "h", "w")}),),
    )

    def skeleton() -> nn.Module:
        from accelerate import init_empty_weights
        from diffusers import AutoencoderKL

        from hsexport.families.sd3.encoder_modules import VaeDecoder

        with told_by_folder(folder), init_empty_weights():
            return VaeDecoder(AutoencoderKL.from_config(AutoencoderKL.load_config(folder))).float()

    weights, config = part_weights(folder), config_fact(folder)
    return Network(spec, skeleton, {"B": 2, "h": 6, "w": 10}, weights=weights, facts=config)


def _states(name: str, length: int, width: int) -> TensorSpec:
    return TensorSpec(name, "float32", ("B", length, width))


def _text_profile(recipe: Recipe) -> tuple[Profile, ...]:
    return (Profile("all", {"B": recipe.ranges()["G"]}),)


def _encoder_skeleton(part: TextPart) -> nn.Module:
    from accelerate import init_empty_weights
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    from hsexport.families.sd3.encoder_modules import ClipEncoder, T5Encoder

    # Parameters alone: CLIP counts its positions itself, and nothing would bring those numbers back.
    with told_by_folder(part.encoder), init_empty_weights(include_buffers=False):
        if part.kind == "clip":
            return ClipEncoder(CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(part.encoder))).float()
        config = T5Config.from_pretrained(part.encoder)
        # Eager attention: the fused one's output strides trip torch.export's decomposition (transformers 5.23).
        config._attn_implementation = "eager"
        return T5Encoder(T5EncoderModel(config)).float()  # whatever type the configuration names
