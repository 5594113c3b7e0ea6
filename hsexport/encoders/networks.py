"""Text encoders, their join, and the VAE decoder as networks of a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers import AutoencoderKL
from hsengines.spec import DimRange, EngineSpec, Profile, TensorSpec
from hsruntime.manifest import Latent, TextEncoder

from hsexport.encoders.modules import ClipEncoder, JoinText, T5Encoder, VaeDecoder
from hsexport.network import Network


def _states(name: str, length: int, width: int) -> TensorSpec:
    return TensorSpec(name, "float32", ("B", length, width))


def text_encoder_network(encoder: TextEncoder, model: Any, rows: DimRange) -> Network:
    """One text encoder at its full padded length; B counts prompts and negative prompts together."""
    config = model.config
    ids = TensorSpec("ids", "int32", ("B", encoder.length))
    outputs: tuple[TensorSpec, ...]
    if encoder.kind == "clip":
        pooled = TensorSpec("pooled", "float32", ("B", config.projection_dim))
        module, outputs = ClipEncoder(model), (_states("states", encoder.length, config.hidden_size), pooled)
    else:
        module, outputs = T5Encoder(model), (_states("states", encoder.length, config.d_model),)
    spec = EngineSpec(encoder.engine, (ids,), outputs, (Profile("all", {"B": rows}),))
    return Network(spec, module.eval(), {"B": 3}, {"ids": config.vocab_size})


def join_text_network(
    encoders: Sequence[TextEncoder], widths: Sequence[tuple[int, int]], t5_length: int, text_width: int, rows: DimRange
) -> Network:
    """Joins states and pooled; `widths` holds (hidden, projection) of the two CLIPs."""
    length = encoders[0].length
    inputs = []
    for number, (hidden, projection) in enumerate(widths, start=1):
        inputs += [_states(f"states_{number}", length, hidden)]
        inputs += [TensorSpec(f"pooled_{number}", "float32", ("B", projection))]
    inputs += [_states("states_3", t5_length, text_width)]
    outputs = (
        _states("text", length + t5_length, text_width),
        TensorSpec("pooled", "float32", ("B", sum(projection for _, projection in widths))),
    )
    spec = EngineSpec("join_text", tuple(inputs), outputs, (Profile("all", {"B": rows}),))
    return Network(spec, JoinText(text_width).eval(), {"B": 3})


def vae_decoder_network(vae: AutoencoderKL, latent: Latent, ranges: Mapping[str, DimRange]) -> Network:
    """Latents of any height and width in the profile to pictures."""
    scale = latent.vae_scale
    spec = EngineSpec(
        "vae_decoder",
        (TensorSpec("latents", "float32", ("B", latent.channels, "h", "w")),),
        (TensorSpec("pictures", "float32", ("B", f"{scale}*h", f"{scale}*w", 3)),),
        (Profile("all", {name: ranges[name] for name in ("B", "h", "w")}),),
    )
    return Network(spec, VaeDecoder(vae).eval(), {"B": 2, "h": 6, "w": 10})
