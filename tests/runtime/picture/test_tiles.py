"""Pictures decoded in tiles: where tiles lie, how they join, and what diffusers makes of the same latents."""

import msgspec
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from hsengines.backend import get_backend
from hsengines.errors import ShapeError
from hsengines.null.backend import NullBackend
from hsengines.spec import DimRange
from hsruntime import Session
from hsruntime.bundle.reader import open_bundle
from hsruntime.loop.buffers import LoopShape
from hsruntime.loop.flow import tokens_from_latents
from hsruntime.options import SessionOptions
from hsruntime.picture.decode import Decoder, assembled, tile_side, tiles_over

SIDE = 4  # latents; a quarter of it is shared
SCALE = 2  # pixels per latent of the tiny pair's VAE


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return open_bundle(tiny_bundle, hashes=False)


@pytest.fixture(scope="module")
def vae(tiny_pair_dirs):
    """The tiny pair's, told to cut latents as we do; its decoder clips as the engine does, before tiles are joined."""
    vae = AutoencoderKL.from_pretrained(tiny_pair_dirs[0] / "vae").eval()
    decoder = vae.decoder.forward
    vae.decoder.forward = lambda latents: decoder(latents).clamp(-1, 1)
    vae.tile_latent_min_size, vae.tile_sample_min_size = SIDE, SIDE * SCALE
    return vae


def latents_of(height, width, pictures=2):
    return np.random.default_rng(3).standard_normal((pictures, 4, height, width), np.float32)


def decoded(bundle, latents, tile):
    """Pictures (B, H, W, 3) of latents that a loop would have left on the device."""
    manifest, backend = bundle.manifest, get_backend("ort-cpu")
    device = backend.device()
    engines = {
        name: backend.load(bundle.file(record.file), record.spec, device)
        for name, record in manifest.engines.items()
        if name in ("unpatchify", "vae_decoder")
    }
    grid = (latents.shape[2] // 2, latents.shape[3] // 2)
    shape = LoopShape(len(latents), len(latents), grid, active=0, steps=1)
    tokens = device.upload(tokens_from_latents(latents, manifest.facts.latent.patch_size))
    decoder = Decoder(manifest.facts.latent, engines, device, shape, tokens, tile)
    pictures = decoder.decode()
    decoder.close()
    return pictures.astype(int)


def diffusers_pictures(vae, latents, tiled):
    vae.use_tiling = tiled
    with torch.no_grad():
        z = torch.from_numpy(latents) / vae.config.scaling_factor + vae.config.shift_factor
        sample = vae.decode(z).sample
    return ((sample / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy().astype(int)


@pytest.mark.parametrize(
    ("extents", "side", "expected"),
    [
        ((12, 12), None, ((12, 12), (0,), (0,))),
        ((12, 8), 8, ((8, 8), (0, 4), (0,))),
        ((4, 14), 8, ((4, 8), (0,), (0, 6))),
        ((15, 20), 8, ((8, 8), (0, 6, 7), (0, 6, 12))),
        ((128, 128), 64, ((64, 64), (0, 48, 64), (0, 48, 64))),
    ],
)
def test_tiles_are_of_one_size_and_reach_every_edge(extents, side, expected):
    assert tiles_over(extents, side) == expected


@pytest.mark.parametrize("extents", [(9, 9), (15, 20), (31, 8), (23, 25)])
def test_tiles_of_one_picture_give_that_picture(extents):
    """Ramps add up to one everywhere, where three tiles lie above one another, too."""
    picture = np.random.default_rng(0).random((2, extents[0] * 2, extents[1] * 2, 3), np.float32)
    tiles = tiles_over(extents, 8)

    def cut(top, left):
        return picture[:, 2 * top :, 2 * left :][:, : 2 * tiles[0][0], : 2 * tiles[0][1]].copy()

    np.testing.assert_allclose(assembled(tiles, 2, picture.shape, cut), picture, atol=1e-6)


def test_a_step_between_tiles_becomes_a_ramp():
    tiles = tiles_over((8, 14), 8)
    levels = {0: 0.0, 6: 1.0}
    picture = assembled(tiles, 2, (1, 16, 28, 3), lambda top, left: np.full((1, 16, 16, 3), levels[left], np.float32))
    np.testing.assert_allclose(picture[0, 5, :, 0], [0] * 12 + [0, 0.25, 0.5, 0.75] + [1] * 12)


@pytest.mark.parametrize("extents", [(4, 10), (10, 4), (10, 10)])
def test_tiled_picture_equals_diffusers(bundle, vae, extents):
    """But for the last quarter of a tile along both sides: diffusers decodes that strip once more, by itself."""
    latents = latents_of(*extents)
    ours, theirs = decoded(bundle, latents, SIDE), diffusers_pictures(vae, latents, tiled=True)
    whole = diffusers_pictures(vae, latents, tiled=False)
    height, width = (SCALE * (extent - SIDE // 4) for extent in extents)
    assert theirs.std() > 5, "a flat picture would agree with anything"
    assert np.abs(theirs - whole)[:, :height, :width].max() > 10, "tiles must matter"
    assert np.abs(ours - theirs)[:, :height, :width].max() <= 1


def test_picture_of_shifted_tiles_equals_diffusers_own_ramps(bundle, vae):
    """Sizes that tiles do not divide: diffusers' decoder and blending over the tiles that we cut."""
    side, latents, tops, lefts = 8, latents_of(12, 10), (0, 4), (0, 2)
    z = torch.from_numpy(latents) / vae.config.scaling_factor + vae.config.shift_factor
    expected = torch.zeros(2, 3, 24, 20)
    rows = []
    with torch.no_grad():
        for top in tops:
            row = []
            for left in lefts:
                tile = vae.decoder(z[:, :, top : top + side, left : left + side])
                if rows:
                    tile = vae.blend_v(rows[-1][len(row)], tile, SCALE * 4)
                if row:
                    tile = vae.blend_h(row[-1], tile, SCALE * 6)
                row.append(tile)
                expected[:, :, SCALE * top :, SCALE * left :][:, :, : SCALE * side, : SCALE * side] = tile
            rows.append(row)
    expected = ((expected / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(decoded(bundle, latents, side) - expected).max() <= 1


@pytest.mark.parametrize("extents", [(4, 4), (2, 4)])
def test_picture_no_larger_than_a_tile_is_decoded_whole(bundle, extents):
    latents = latents_of(*extents)
    np.testing.assert_array_equal(decoded(bundle, latents, SIDE), decoded(bundle, latents, None))


def test_session_decodes_in_tiles(tiny_bundle):
    asked = {"schedule": "large:2,small:1", "seed": 3, "width": 24, "height": 20}
    with Session.open(tiny_bundle, hashes=False) as session:
        whole, small = session.generate("red", **asked).image, session.generate("red", schedule="small:2").image
    with Session.open(tiny_bundle, hashes=False, vae_tile=16) as session:
        tiled, same = session.generate("red", **asked).image, session.generate("red", schedule="small:2").image
    assert tiled.shape == whole.shape
    assert np.abs(tiled.astype(int) - whole).max() > 1
    np.testing.assert_array_equal(same, small)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # pictures of whatever the memory held
def test_each_tile_is_cut_and_decoded_once_through_one_binding(bundle):
    backend = NullBackend()
    with Session(bundle, SessionOptions(vae_tile=16), backend=backend) as session:
        session.generate("red", width=24, height=24, schedule="small:1")
        decoder = next(iter(session._executors._kept.values()))._decoder
        assert len(decoder._bindings) == 2
        assert decoder._pictures.shape == (1, 16, 16, 3)
    assert backend.log[-8:] == ["unpatchify", "vae_decoder"] * 4


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (15, "vae_tile 15 is not a multiple of 2, a latent's side in pixels; try 14 or 16"),
        (6, r"vae_tile 6 lies outside the 8\.\.24 pixels that the bundle's VAE decodes"),
        (26, r"vae_tile 26 lies outside the 8\.\.24 pixels"),
        (-8, "vae_tile -8 lies outside"),
    ],
)
def test_tile_that_cannot_be_is_told(tiny_bundle, pixels, words):
    with pytest.raises(ShapeError, match=words):
        Session.open(tiny_bundle, hashes=False, vae_tile=pixels)


def test_tile_must_lie_in_the_decoders_profile_along_both_sides(bundle):
    record = bundle.manifest.engines["vae_decoder"]
    (profile,) = record.spec.profiles
    narrow = msgspec.structs.replace(profile, dims=profile.dims | {"h": DimRange(5, 8, 10), "w": DimRange(1, 8, 9)})
    spec = msgspec.structs.replace(record.spec, profiles=(narrow,))
    engines = bundle.manifest.engines | {"vae_decoder": msgspec.structs.replace(record, spec=spec)}
    manifest = msgspec.structs.replace(bundle.manifest, engines=engines)
    assert [tile_side(manifest, pixels) for pixels in (10, 18, None)] == [5, 9, None]
    for pixels in (8, 20):
        with pytest.raises(ShapeError, match=rf"vae_tile {pixels} lies outside the 10\.\.18 pixels"):
            tile_side(manifest, pixels)


@pytest.mark.parametrize("pixels", [0, None])
def test_no_tile_decodes_whole(tiny_bundle, pixels):
    with Session.open(tiny_bundle, hashes=False, vae_tile=pixels) as session:
        assert session._tile is None
