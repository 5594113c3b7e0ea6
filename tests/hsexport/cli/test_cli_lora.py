from pathlib import Path

import click
import pytest

from hsexport.checkpoints.weights.adapter import AdapterRequest
from hsexport.cli.build_options import adapter_from_text, outer_from_text


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


def test_light_is_two_numbers_of_blocks():
    assert outer_from_text("2+1") == (2, 1)
    assert outer_from_text("9+9") == (9, 9)  # too many for a model is told when it is known


@pytest.mark.parametrize("text", ["", "2", "2+", "+1", "0+1", "1+0", "2-1", "2+1+1", "-1+2", "1000+1", "a+b", "2 + 1"])
def test_light_of_anything_else_is_wrong_usage(text):
    with pytest.raises(click.BadParameter, match=r"no number of first and last blocks; write 2\+1 or the like"):
        outer_from_text(text)


@pytest.mark.parametrize("text", ["2", "0+1"])
@pytest.mark.parametrize("command", ["build", "plan"])
def test_light_of_anything_else_ends_the_command(hsexport, command, text):
    done = hsexport(command, "--large", "demo", "--small", "light", "--light", text, "--out", "bundle")
    assert done.returncode == 2
    assert f"'{text}' is no number of first and last blocks" in done.stderr
