"""Exports of the tiny pair, taken from the store that the tiny bundle was built through."""

import pytest


@pytest.fixture(scope="session")
def tiny_onnx(tiny_networks, tiny_cache):
    """`tiny_onnx(name)` loads an export anew, its weights attached."""
    from hsexport.build.stages.export import export_key
    from hsexport.build.store import Store
    from hsexport.onnx.graph_files import load_graph
    from hsexport.onnx.weights import attach_weights

    store = Store(tiny_cache)

    def load(name):
        network = tiny_networks[name]
        model = load_graph(store.find(export_key(network)) / f"{name}.onnx")
        attach_weights(model, network.weights)
        return model

    return load
