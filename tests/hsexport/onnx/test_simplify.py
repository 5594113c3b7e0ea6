"""What an export leaves of the graph that torch writes."""

from collections import Counter

import onnxruntime as ort
import pytest
import torch
from onnx_ir import serde

from hsengines.ort.session import session_options
from hsexport.onnx.onnx_export import export_onnx, simplify


class Sums(torch.nn.Module):
    """Two equal sums, a scale by one, a slice of everything, a reshape twice, and a root mean square norm."""

    def forward(self, x):
        y = (x + 2) * 1
        y = (y + (x + 2))[:, :].reshape(-1).reshape(3, 4)
        return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * torch.arange(1.0, 5.0)


@pytest.fixture
def written():
    """As torch writes it."""
    x = torch.linspace(-1, 1, 12).reshape(3, 4)
    return torch.onnx.export(Sums().eval(), (x,), dynamo=True, opset_version=23, verbose=False, optimize=False).model


def answer(model):
    session = ort.InferenceSession(serde.serialize_model(model).SerializeToString(), session_options())
    (name,) = [value.name for value in session.get_inputs()]
    return session.run(None, {name: torch.linspace(-1, 1, 12).reshape(3, 4).numpy()})[0]


def test_what_does_nothing_or_is_there_twice_goes_and_answers_stay(written):
    before = answer(written)
    simplify(written)
    left = Counter(node.op_type for node in written.graph)
    assert left == {"Add": 2, "RMSNormalization": 1}
    assert answer(written) == pytest.approx(before, rel=1e-5)


def test_steps_are_told_as_they_begin(tiny_networks, tmp_path):
    told = []
    export_onnx(tiny_networks["guide"], tmp_path, lambda *step: told.append(step))
    assert told == [("tracing", 0, 2), ("simplifying", 1, 2)]
