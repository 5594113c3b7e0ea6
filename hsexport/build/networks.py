"""Every network of a bundle, in the order they are built: the largest first, so that a doomed build fails early."""

from __future__ import annotations

from hsexport.build.recipe import Recipe
from hsexport.families.sd3.encoders import join_text_network, text_encoder_network, vae_decoder_network
from hsexport.families.sd3.networks import large_network, small_network
from hsexport.networks.network import Network
from hsexport.networks.step_networks import step_networks


def networks_of(recipe: Recipe) -> list[Network]:
    """Large, small, the text encoders and their join, the VAE decoder, the step's own networks."""
    encoders = [text_encoder_network(recipe, part) for part in recipe.text]
    return [
        large_network(recipe),
        small_network(recipe),
        *encoders,
        join_text_network(recipe),
        vae_decoder_network(recipe),
        *step_networks(recipe),
    ]
