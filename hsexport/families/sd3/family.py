"""SD3 and SD3.5 behind the contract of a family."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.shards import Place, TensorHeader, read_headers
from hsexport.families.family import Family
from hsexport.families.pair import Member, Pair
from hsexport.families.sd3.config import BUFFERS, FAMILY, TransformerConfig, check_checkpoint, transformer_config_from
from hsexport.families.sd3.counts import modulation_chunks, transformer_operations, without_middle
from hsexport.families.sd3.pair_check import check_pair
from hsexport.families.sd3.parts import encoder_tensors
from hsexport.families.sd3.single_file import places_of, read_single_file
from hsexport.families.sd3.text import text_side
from hsruntime.facts import Latent, Operations, Positions, Sigmas, Sizes, TextSide, TextSlot, Transformer

if TYPE_CHECKING:
    from torch import nn

    from hsexport.families.recipe import Recipe
    from hsexport.networks.network import Network

TEXT = "text"
"""The one text side, which both members read."""


class Sd3(Family):
    """MMDiT: joint attention of text and image, position as a table added once, adaLN modulation."""

    name = "sd3"

    def read_transformer(self, transformer: Path) -> tuple[TransformerConfig, dict[str, TensorHeader]]:
        """Of a folder as diffusers writes it, or of a single file by Stability's names."""
        if transformer.is_file():
            return read_single_file(transformer)
        config, tensors = transformer_config_from(transformer), read_headers(transformer, ())
        check_checkpoint(transformer, config, tensors)
        if foreign := sorted(set(tensors) - set(places_of(config)) - BUFFERS):
            raise PairError(f"{transformer} holds {foreign[0]}, which no SD3 transformer has", FAMILY)
        return config, tensors

    def counts(self, tensor: str) -> bool:
        """The position table follows from a formula."""
        return tensor not in BUFFERS

    def check_pair(self, large: Member, small: Member | None, without: Collection[str]) -> Any:
        """Scheduler, VAE and text encoders, as read."""
        return check_pair(large, small, without)

    def places(self, config: TransformerConfig) -> Mapping[str, Place]:
        """By Stability's names, which kohya's scripts train."""
        return places_of(config)

    def latent(self, pair: Pair) -> Latent:
        """The VAE's."""
        config = pair.large.config
        return Latent(channels=config.in_channels, patch_size=config.patch_size, vae_scale=pair.parts["vae"].scale)

    def trained_size(self, pair: Pair) -> int:
        """Large's sample_size in pixels."""
        return int(pair.large.config.sample_size * pair.parts["vae"].scale)

    def reach(self, pair: Pair) -> int:
        """The smaller position table's side."""
        unit = self.latent(pair).pixels_per_token
        return unit * min(member.config.pos_embed_max_size for member in pair.members)

    def transformer(self, member: Member, latent: Latent, sizes: Sizes) -> Transformer:
        """A dual attention is an attention layer like any other, with a cache slot of its own."""
        config = member.config
        columns, rows = (side // latent.pixels_per_token for side in sizes.maximum)
        return Transformer(
            source=member.told_source(),
            parameters=member.parameters,
            layers=config.num_layers,
            heads=config.num_attention_heads,
            head_size=config.attention_head_dim,
            image_slots=config.num_layers + len(config.dual_attention_layers),
            text_slots=config.num_layers,
            given=modulation_chunks(config) * config.width,
            positions=Positions(origin="centre", table_size=config.pos_embed_max_size, rows=rows, columns=columns),
            text=TEXT,
            operations=self.operations(member),
        )

    def operations(self, member: Member, outer: tuple[int, int] | None = None) -> dict[str, Operations]:
        """The runtime's own formula."""
        return transformer_operations(without_middle(member.config, outer))

    def sigmas(self, pair: Pair) -> Sigmas:
        """The scheduler's."""
        scheduler = pair.parts["scheduler"]
        return Sigmas(rule="flow-match-euler", levels=scheduler.num_train_timesteps, shift=scheduler.shift)

    def text_sides(self, pair: Pair, without: Collection[str], longest: int | None) -> dict[str, TextSide]:
        """One for both."""
        return {TEXT: text_side(pair, without, longest)}

    def networks(self, recipe: Recipe) -> list[Network]:
        """Large, small, what conditions them, text encoders and their join, the VAE's decoder and encoder."""
        from hsexport.families.sd3.encoders import join_text_network, text_encoder_networks, vae_network_pair
        from hsexport.families.sd3.networks import conditioning_network, large_network, light_network, small_network

        pair, light = recipe.pair, recipe.facts.light
        steps = [large_network(recipe)]
        steps += [small_network(recipe, pair.small)] if pair.small else []
        steps += [light_network(recipe, light.outer)] if light and light.outer else []
        conditioning = [conditioning_network(recipe, member) for member in pair.members]
        surroundings = [join_text_network(recipe), *vae_network_pair(recipe)]
        return [*steps, *conditioning, *text_encoder_networks(recipe), *surroundings]

    def tokenizer(self, pair: Pair, slot: TextSlot) -> Path:
        """The folder that the slot's file is called after."""
        return pair.shared[Path(slot.tokenizer).stem]

    def encoder_tensors(self, pair: Pair, slot: TextSlot) -> tuple[dict[str, TensorHeader], dict[str, Place]]:
        """By transformers' names."""
        return encoder_tensors(pair.parts[slot.engine])

    def original(self, member: Member, dtype: Any = None) -> nn.Module:
        """Diffusers' SD3Transformer2DModel."""
        import torch

        from hsexport.families.sd3.transformer import original_of

        return original_of(member, dtype or torch.float32)
