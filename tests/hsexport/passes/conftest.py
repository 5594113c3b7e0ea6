"""Networks of the tiny pair and their exports, taken from the store that the tiny bundle was built through."""

import pytest


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
def tiny_onnx(tiny_networks, tiny_cache):
    """`tiny_onnx(name)` loads an export anew, its weights attached."""
    from hsengines.store import Store
    from hsexport.export.stage import export_key
    from hsexport.passes.attach import attach_weights
    from hsexport.passes.load import load_graph

    store = Store(tiny_cache)

    def load(name):
        network = tiny_networks[name]
        model = load_graph(store.find(export_key(network)) / f"{name}.onnx")
        attach_weights(model, network.weights)
        return model

    return load
