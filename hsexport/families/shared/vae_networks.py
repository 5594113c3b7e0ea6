"""The two halves of a VAE as networks of a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hsengines.spec import EngineSpec, Profile, TensorSpec
from hsengines.weights import BYTES, CONVOLUTION, FORMATS
from hsexport.checkpoints.weights import Weights
from hsexport.families.recipe import Recipe
from hsexport.families.shared.counts import Dims, decoder_activations, vae_operations
from hsexport.families.shared.weights import config_fact
from hsexport.networks.network import Network, WeightRule

if TYPE_CHECKING:
    from torch import nn

IN_BYTES = (WeightRule(("*",), tuple(FORMATS), BYTES, "nearly all of it is convolutions"),)


@dataclass(frozen=True)
class Half:
    """A module of `vae_modules` and its numbers."""

    skeleton: Callable[[], nn.Module]
    weights: Weights


def vae_networks(
    recipe: Recipe, decoder: Half, encoder: Half, document: Mapping[str, Any], widths: Sequence[int], side: int = 1
) -> list[Network]:
    """Latents to pictures, and pictures to latents, of any height and width in the profile.

    `document` is the VAE's configuration, `widths` its decoder's, from the picture inwards; `side`: how many of its
    own latents lie along one of the loop's.
    """
    latent = recipe.facts.latent
    scale, channels = latent.vae_scale, latent.channels
    decoding = EngineSpec(
        "vae_decoder",
        (TensorSpec("latents", "float32", ("B", channels, "h", "w")),),
        (TensorSpec("pictures", "float32", ("B", f"{scale}*h", f"{scale}*w", 3)),),
        _profile(recipe),
    )
    encoding = EngineSpec(
        "vae_encoder",
        (TensorSpec("pixels", "float32", ("B", "h", "w", scale * scale * 3)),),
        (TensorSpec("latents", "float32", ("B", "h", "w", channels)),),
        _profile(recipe),
    )

    def own(dims: Dims) -> Dims:
        return {**dims, "h": side * dims["h"], "w": side * dims["w"]}

    def network(spec: EngineSpec, half: Half, activations: Callable[[Dims, bool], int] | None = None) -> Network:
        return Network(
            spec,
            half.skeleton,
            {"B": 2, "h": 6, "w": 10},
            weights=half.weights,
            facts=config_fact(document),
            weight_rules=IN_BYTES,
            kind=CONVOLUTION,
            group="vae",
            operations=lambda shapes, dims: vae_operations(shapes, own(dims)),
            activations=activations,
        )

    widest = network(decoding, decoder, lambda dims, _: decoder_activations(widths, own(dims)))
    return [widest, network(encoding, encoder)]


def _profile(recipe: Recipe) -> tuple[Profile, ...]:
    return (Profile("all", {name: recipe.ranges()[name] for name in ("B", "h", "w")}),)
