from pathlib import Path

import click
import pytest

from hsexport.checkpoints.weights.adapter import AdapterRequest
from hsexport.cli.build_options import adapter_from_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("style.safetensors", AdapterRequest("large", Path("style.safetensors"), 1.0)),
        ("a/style.safetensors:0.8", AdapterRequest("large", Path("a/style.safetensors"), 0.8)),
        ("large=x:-1", AdapterRequest("large", Path("x"), -1.0)),
        ("small=FILE:0.8", AdapterRequest("small", Path("FILE"), 0.8)),
        ("name=with.safetensors", AdapterRequest("large", Path("name=with.safetensors"), 1.0)),
    ],
)
def test_lora_is_a_file_with_a_role_and_a_scale(text, expected):
    assert adapter_from_text(text) == expected


@pytest.mark.parametrize("text", ["", "small=", "x:", "x:much", "x:nan", "x:inf", ":1"])
def test_lora_without_file_or_scale_is_wrong_usage(text):
    with pytest.raises(click.BadParameter, match=r"write FILE, FILE:0\.8 or small=FILE:0.8"):
        adapter_from_text(text)
