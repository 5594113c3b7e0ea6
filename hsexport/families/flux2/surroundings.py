"""Text encoders, their joins, and the VAE's two halves as networks of a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsengines.spec import EngineSpec, Profile, TensorSpec
from hsexport.checkpoints.documents import told_by_folder
from hsexport.checkpoints.shards import read_headers
from hsexport.checkpoints.weights import Weights, stored
from hsexport.families.flux2.counts import encoder_operations
from hsexport.families.flux2.parts import PATCH, TAKEN, EncoderConfig
from hsexport.families.flux2.rules import QWEN3_FP32, TEXT_TABLES
from hsexport.families.flux2.text import states_of
from hsexport.families.recipe import Recipe
from hsexport.families.shared.vae_networks import Half, vae_networks
from hsexport.families.shared.weights import config_fact, encoder_weights, modern
from hsexport.networks.network import Network, on_meta
from hsruntime.facts import TextSlot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import nn


def text_networks(recipe: Recipe) -> Iterator[Network]:
    """Each text side's encoder and its join; B counts prompts and negative prompts together."""
    for name, side in recipe.facts.text.items():
        (slot,) = side.encoders
        encoder = recipe.pair.parts.encoders[name]
        yield _encoder_network(recipe, encoder, slot)
        yield _join_network(recipe, encoder, slot, side.join)


def _states(slot: TextSlot, encoder: EncoderConfig) -> tuple[TensorSpec, ...]:
    shape = ("B", slot.length, encoder.shape.hidden_size)
    return tuple(TensorSpec(states_of(number), "float32", shape) for number in TAKEN)


def _encoder_network(recipe: Recipe, encoder: EncoderConfig, slot: TextSlot) -> Network:
    ids = TensorSpec("ids", "int32", ("B", slot.length))

    def module() -> nn.Module:
        from hsexport.families.flux2.qwen3_modules import Qwen3Encoder

        return Qwen3Encoder(encoder.shape, slot.length, slot.pad_id)

    return Network(
        EngineSpec(slot.engine, (ids,), _states(slot, encoder), _profile(recipe)),
        on_meta(module),
        {"B": 3},
        {"ids": encoder.shape.vocab_size},
        weights=_encoder_weights(recipe, slot, encoder),
        facts=config_fact(encoder.document) | {"pad": str(slot.pad_id)},
        narrow_tensors=("states_*",),
        fp32_blocks=QWEN3_FP32,
        tables=TEXT_TABLES,
        group="text",
        operations=lambda shapes, dims: encoder_operations(shapes, dims, slot.length),
    )


def _encoder_weights(recipe: Recipe, slot: TextSlot, encoder: EncoderConfig) -> Weights:
    """Those of the layers that are run: nothing behind the last whose states are taken."""
    read = ("embed_tokens.", *(f"layers.{number}." for number in range(max(TAKEN))))
    return encoder_weights(recipe, slot, encoder.folder, lambda name: name.startswith(read))


def _join_network(recipe: Recipe, encoder: EncoderConfig, slot: TextSlot, name: str) -> Network:
    states = _states(slot, encoder)
    text = TensorSpec("text", "float32", ("B", slot.length, len(TAKEN) * encoder.shape.hidden_size))

    def skeleton() -> nn.Module:
        from hsexport.families.flux2.qwen3_modules import JoinText

        return JoinText()

    return Network(EngineSpec(name, states, (text,), _profile(recipe)), skeleton, {"B": 3}, narrow_tensors=("*",))


def _profile(recipe: Recipe) -> tuple[Profile, ...]:
    return (Profile("all", {"B": recipe.ranges()["G"]}),)


def vae_network_pair(recipe: Recipe) -> list[Network]:
    """The VAE's decoder and encoder."""
    vae, folder = recipe.pair.parts.vae, recipe.pair.shared["vae"]

    def skeleton(module: str) -> nn.Module:
        from accelerate import init_empty_weights
        from diffusers import AutoencoderKLFlux2

        from hsexport.families.flux2 import vae_halves as modules

        with told_by_folder(folder), init_empty_weights():
            made: nn.Module = getattr(modules, module)(
                AutoencoderKLFlux2.from_config(AutoencoderKLFlux2.load_config(folder))
            )
            return made.float()

    halves = (
        Half(lambda: skeleton("VaeDecoder"), _vae_weights(folder, ("decoder.", "post_quant_conv."))),
        Half(lambda: skeleton("VaeEncoder"), _vae_weights(folder, ("encoder.", "quant_conv."))),
    )
    return vae_networks(recipe, *halves, vae.document, vae.decoder_widths, side=PATCH)


STATISTICS = ("bn.running_mean", "bn.running_var")


def _vae_weights(folder: Path, modules: tuple[str, ...]) -> Weights:
    headers = {n: header for n, header in read_headers(folder).items() if n.startswith(modules) or n in STATISTICS}
    return Weights(folder, {modern(name): stored(header) for name, header in headers.items()}, headers)
