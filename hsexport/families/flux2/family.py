"""FLUX.2 behind the contract of a family."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsexport.checkpoints.shards import Place, TensorHeader, read_headers
from hsexport.families.family import DEFAULT_STEPS, Family
from hsexport.families.flux2.config import TransformerConfig, check_checkpoint, transformer_config_from
from hsexport.families.flux2.counts import CHUNKS, transformer_operations, without_middle
from hsexport.families.flux2.pair_check import OWN, check_pair, text_of
from hsexport.families.flux2.parts import Parts, encoder_tensors
from hsexport.families.flux2.single_file import places_of, read_single_file
from hsexport.families.flux2.text import side_of, text_side
from hsexport.families.pair import Member, Pair
from hsruntime.facts import Latent, Operations, Positions, Sigmas, Sizes, TextSide, TextSlot, Transformer

if TYPE_CHECKING:
    from torch import nn

    from hsexport.families.recipe import Recipe
    from hsexport.networks.network import Network

TRAINED, REACH = 128, 256
"""Sides in the VAE's own latents: Flux2KleinPipeline's default_sample_size, and 4 megapixels, as many as it draws."""


class Flux2(Family):
    """Joint blocks, then single-stream ones; rotary positions, one modulation for all blocks, text sides of its own."""

    name = "flux2"
    references = 1
    own_parts = OWN

    def read_transformer(self, transformer: Path) -> tuple[TransformerConfig, dict[str, TensorHeader]]:
        """Of a folder as diffusers writes it, or of a single file by Black Forest Labs' names."""
        if transformer.is_file():
            return read_single_file(transformer)
        config, tensors = transformer_config_from(transformer), read_headers(transformer, ())
        check_checkpoint(transformer, config, tensors)
        return config, tensors

    def places(self, config: TransformerConfig) -> Mapping[str, Place]:
        """By Black Forest Labs' names, which LoRAs have that were not trained with diffusers."""
        return places_of(config)

    def check_pair(self, large: Member, small: Member | None, without: Collection[str]) -> Parts:
        """VAE, noise levels, and each text side's encoder, as read."""
        return check_pair(large, small, without)

    def latent(self, pair: Pair) -> Latent:
        """The VAE's in patches of 2x2, which are what the pipeline denoises."""
        return Latent(channels=pair.large.config.in_channels, patch_size=1, vae_scale=pair.parts.vae.scale)

    def trained_size(self, pair: Pair) -> int:
        """The pipeline's default."""
        return int(TRAINED * pair.parts.vae.scale // 2)

    def reach(self, pair: Pair) -> int:
        """No table ends: as far as the model was shown."""
        return int(REACH * pair.parts.vae.scale // 2)

    def transformer(self, member: Member, latent: Latent, sizes: Sizes) -> Transformer:
        """Every block of either kind keeps keys and values of image and text."""
        config: TransformerConfig = member.config
        columns, rows = (side // latent.pixels_per_token for side in sizes.maximum)
        return Transformer(
            source=member.told_source(),
            parameters=member.parameters,
            layers=config.layers,
            heads=config.num_attention_heads,
            head_size=config.attention_head_dim,
            image_slots=config.layers,
            text_slots=config.layers,
            given=CHUNKS * config.width,
            positions=Positions(origin="corner", table_size=max(rows, columns), rows=rows, columns=columns),
            text=text_of(member),
            guidance="none" if config.is_distilled else "classifier-free",
            operations=self.operations(member),
        )

    def operations(self, member: Member, outer: tuple[int, int] | None = None) -> dict[str, Operations]:
        """Joint and single-stream blocks counted in a row."""
        return transformer_operations(without_middle(member.config, outer))

    def sigmas(self, pair: Pair) -> Sigmas:
        """Shifted by how many tokens and steps there are."""
        return Sigmas(rule="empirical-mu", levels=pair.parts.levels, shift=1.0)

    def steps(self, pair: Pair) -> int:
        """As few as a distilled pair was trained to draw in."""
        return 4 if all(member.config.is_distilled for member in pair.members) else DEFAULT_STEPS

    def text_sides(self, pair: Pair, without: Collection[str], longest: int | None) -> dict[str, TextSide]:
        """Large's, and small's own where it brings one."""
        del without
        return {side: text_side(side, encoder, longest) for side, encoder in pair.parts.encoders.items()}

    def networks(self, recipe: Recipe) -> list[Network]:
        """Steps, what conditions them, text sides, the VAE's decoder and encoder."""
        from hsexport.families.flux2.networks import (
            conditioning_network,
            large_network,
            light_network,
            small_network,
        )
        from hsexport.families.flux2.surroundings import text_networks, vae_network_pair

        pair, light = recipe.pair, recipe.facts.light
        steps = [large_network(recipe)]
        steps += [small_network(recipe, pair.small)] if pair.small else []
        steps += [light_network(recipe, light.outer)] if light and light.outer else []
        conditioning = [conditioning_network(recipe, member) for member in pair.members]
        return [*steps, *conditioning, *text_networks(recipe), *vae_network_pair(recipe)]

    def tokenizer(self, pair: Pair, slot: TextSlot) -> Path:
        """The folder beside the slot's encoder."""
        encoder: Any = pair.parts.encoders[side_of(slot)]
        found: Path = encoder.tokenizer
        return found

    def encoder_tensors(self, pair: Pair, slot: TextSlot) -> tuple[dict[str, TensorHeader], dict[str, Place]]:
        """By the names inside the model."""
        return encoder_tensors(pair.parts.encoders[side_of(slot)])

    def original(self, member: Member, dtype: Any = None) -> nn.Module:
        """Diffusers' Flux2Transformer2DModel."""
        import torch

        from hsexport.families.flux2.transformer import original_of

        return original_of(member, dtype or torch.float32)
