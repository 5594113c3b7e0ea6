"""Modules whose weights come from the disk while they compute."""

import pytest
import torch

from hsexport.networks.network import reference_outputs

NETWORKS = ["large", "small", "text_encoder", "text_encoder_3", "vae_decoder"]


@pytest.mark.parametrize("name", NETWORKS)
def test_no_weight_is_held_before_or_after_a_call(tiny_networks, name):
    network = tiny_networks[name]
    module = network.load()
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}
    outputs = reference_outputs(module, network.spec, network.sample_inputs())
    assert all(abs(answer).max() > 0 for answer in outputs.values())
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}


def test_one_layer_at_a_time_has_its_weights(tiny_networks):
    network, most = tiny_networks["large"], 0
    module = network.load()

    def counted(forward):
        def counting(*arguments, **options):
            nonlocal most
            most = max(most, sum(p.numel() for p in module.parameters() if p.device.type == "cpu"))
            return forward(*arguments, **options)

        return counting

    for layer in module.modules():
        if hasattr(layer, "_old_forward"):  # what accelerate calls once a layer has its weights
            layer._old_forward = counted(layer._old_forward)
    reference_outputs(module, network.spec, network.sample_inputs())
    layers = [sum(p.numel() for p in layer.parameters(recurse=False)) for layer in module.modules()]
    outside, *others = layers  # the patch embedding's, held throughout
    assert most == outside + max(others) < sum(layers) / 5


def test_answer_equals_the_librarys_own_model(tiny_networks, tiny_pair_dirs):
    from transformers import T5EncoderModel

    network = tiny_networks["text_encoder_3"]
    inputs = network.sample_inputs()
    found = reference_outputs(network.load(), network.spec, inputs)["states"]
    model = T5EncoderModel.from_pretrained(tiny_pair_dirs[0] / "text_encoder_3", dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = model(torch.from_numpy(inputs["ids"]))[0].numpy()
    assert abs(found - expected).max() < 1e-5 * abs(expected).max()  # the fused attention sums in another order
