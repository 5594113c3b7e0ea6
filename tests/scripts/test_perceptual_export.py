"""The networks that are exported and their graphs agree, whatever the weights and the size."""

import numpy as np
import pytest
import torch
from torch import nn

from hsexport.measure.perceptual.network import LPIPS, STLPIPS, Perceptual
from perceptual_export.__main__ import write_graph
from perceptual_export.networks import Lpips, ShiftTolerant, halved
from perceptual_export.pictures import noisy, scene

SHAPES = ((64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3))
NETWORKS = {Lpips: LPIPS, ShiftTolerant: STLPIPS}


def weights_for(kind):
    source, weights = torch.Generator().manual_seed(0), {}
    for level, (name, (given, taken, side)) in enumerate(zip(kind.convolutions, SHAPES, strict=True)):
        drawn = torch.randn(given, taken, side, side, generator=source) / (taken * side * side) ** 0.5
        weights[f"{name}.weight"] = drawn.half().float()  # what fp16 holds exactly
        weights[f"{name}.bias"] = torch.randn(given, generator=source) / 10
        weights[f"lin{level}.model.1.weight"] = torch.rand(1, given, 1, 1, generator=source)
    return weights


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS, ids=lambda kind: kind.__name__)
def test_graph_gives_the_networks_distances_at_any_size(kind, tmp_path):
    network, least = kind(weights_for(kind)).eval(), NETWORKS[kind].least_side
    write_graph(tmp_path / "graph.onnx", network)
    graph = Perceptual(tmp_path / "graph.onnx", least)
    for size in ((48, 64), (least, 40), (33, 33)):
        picture, reference = noisy(scene(*size), 16)[None], scene(*size)[None]
        with torch.inference_mode():
            expected = network(torch.from_numpy(picture), torch.from_numpy(reference)).numpy()
        # Sums of some hundred thousand products in another order.
        assert graph.distances(picture, reference) == pytest.approx(expected, rel=1e-4)


def test_lpips_sees_what_torchvisions_alexnet_sees():
    weights, pictures = weights_for(Lpips), torch.from_numpy(np.stack([scene(64, 80), noisy(scene(64, 80), 9)]))
    layers = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )
    layers.load_state_dict({n.removeprefix("features."): t for n, t in weights.items() if n.startswith("features.")})
    # Of colours in 0..1: ImageNet's mean and deviation, rounded as LPIPS has them.
    x = (pictures.permute(0, 3, 1, 2) / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    with torch.inference_mode():
        found = Lpips(weights).levels(pictures)
        for number, layer in enumerate(layers):
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                torch.testing.assert_close(found.pop(0), x, rtol=1e-4, atol=1e-4, msg=f"layer {number}")
    assert not found


def test_halving_keeps_what_is_even_and_blurs_the_rest():
    even = torch.full((1, 2, 8, 8), 3.0)
    assert halved(even).shape == (1, 2, 5, 5)
    torch.testing.assert_close(halved(even), torch.full((1, 2, 5, 5), 3.0))
    stripes = torch.from_numpy(np.tile([0.0, 1.0], 8).astype(np.float32)).expand(1, 1, 16, 16)
    torch.testing.assert_close(halved(stripes), torch.full((1, 1, 9, 9), 0.5))
