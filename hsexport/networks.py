"""Every network of a bundle, in the order they are built: the largest first, so that a doomed build fails early."""

from __future__ import annotations

from hsexport.encoders.networks import join_text_network, text_encoder_network, vae_decoder_network
from hsexport.mmdit.networks import large_network, small_network
from hsexport.network import Network
from hsexport.recipe import Recipe
from hsexport.steps.networks import step_networks


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
