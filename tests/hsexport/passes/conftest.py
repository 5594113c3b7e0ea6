"""Four networks of the tiny pair, exported once a session."""

import onnx_ir as ir
import pytest

EXPORTED = ("large", "text_encoder", "text_encoder_3", "vae_decoder")


@pytest.fixture(scope="session")
def tiny_networks(tiny_pair_dirs, tmp_path_factory):
    """Networks of the tiny pair by name."""
    from hsexport.networks import networks_of
    from hsexport.pair import load_pair
    from hsexport.recipe import BuildRequest, recipe_from_pair

    large, small = map(str, tiny_pair_dirs)
    nowhere = tmp_path_factory.mktemp("nowhere")
    request = BuildRequest(large=large, small=small, out=nowhere / "bundle", cache=nowhere / "cache")
    return {network.name: network for network in networks_of(recipe_from_pair(load_pair(large, small), request))}


@pytest.fixture(scope="session")
def tiny_onnx(tiny_networks, tmp_path_factory):
    """`tiny_onnx(name)` loads one of EXPORTED anew."""
    from hsexport.export.onnx_export import export_onnx

    folder = tmp_path_factory.mktemp("tiny_onnx")
    for name in EXPORTED:
        export_onnx(tiny_networks[name], tiny_networks[name].load(), folder)
    return lambda name: ir.load(folder / f"{name}.onnx")
