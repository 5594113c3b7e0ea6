"""The manifest as far as it is known before anything is built: what the runtime's own arithmetic asks for."""

from __future__ import annotations

from collections.abc import Iterable

from hsexport.build.recipe import Recipe
from hsexport.networks.network import Network
from hsruntime.bundle.manifest import FORMAT_VERSION, Manifest, engine_record

NOT_YET = ""


def manifest_outline(recipe: Recipe, networks: Iterable[Network]) -> Manifest:
    """Architectures, sizes, defaults and the engines' outsides; files, keys and tools are not there yet."""
    bundle = recipe.request.options.precision
    engines = {}
    for network in networks:
        own = network.precision_in(bundle)
        spec = network.spec_at(own)
        engines[network.name] = engine_record(spec, file=NOT_YET, weights=[], build_key=NOT_YET, precision=own)
    return Manifest(
        format_version=FORMAT_VERSION,
        backend=recipe.request.backend,
        precision=bundle,
        target=NOT_YET,
        tools={},
        device=NOT_YET,
        large=recipe.large,
        small=recipe.small,
        latent=recipe.latent,
        positions=recipe.positions,
        sizes=recipe.sizes,
        scheduler=recipe.scheduler,
        text_encoders=[part.record for part in recipe.text],
        defaults=recipe.defaults,
        engines=engines,
        files=[],
    )
