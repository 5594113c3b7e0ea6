"""What FLUX.2's networks compute, counted beside torch's own counter, and planned beside what a bundle holds."""

import math

import pytest
import torch
from tiny_flux2 import TEXT_LENGTH, make_flux2_pipeline
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hsexport.build.request import BuildRequest
from hsexport.families.flux2.conditioning import Conditioning
from hsexport.families.flux2.config import TransformerConfig
from hsexport.families.flux2.counts import conditioning_operations, encoder_operations, transformer_operations
from hsexport.families.flux2.parts import TAKEN, Qwen3Shape
from hsexport.families.flux2.qwen3_modules import Qwen3Encoder
from hsexport.families.flux2.transformer import TokenTransformer, transformer_like
from hsexport.plan.plan import plan_for
from hsruntime.facts import Positions, counted

CONFIG = TransformerConfig(
    num_layers=2,
    num_single_layers=3,
    num_attention_heads=2,
    attention_head_dim=8,
    in_channels=16,
    joint_attention_dim=24,
    timestep_guidance_channels=16,
    axes_dims_rope=(2, 2, 2, 2),
    guidance_embeds=False,
)
KEPT = Positions(origin="corner", table_size=8, rows=8, columns=8)
ROWS, WORDS = 2, 5


def flops_of(module, *inputs):
    """By torch's counter, which sees products, and attention where it is written out as such."""
    plain = sdpa_kernel(SDPBackend.MATH)
    with torch.inference_mode(), plain, FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops()


def shapes_of(module):
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


@pytest.mark.parametrize(("active", "cached", "live"), [(20, 0, WORDS), (7, 13, WORDS), (7, 13, 0)])
def test_a_step_of_a_region_and_of_the_whole(active, cached, live):
    module = TokenTransformer(transformer_like(CONFIG), KEPT, WORDS, takes_cache=True).eval()
    heads, size = CONFIG.num_attention_heads, CONFIG.attention_head_dim
    past = [torch.randn(ROWS, cached, heads, size) for _ in range(2 * CONFIG.layers)]
    past += [torch.randn(ROWS, WORDS - live, heads, size) for _ in range(2 * CONFIG.layers)]
    inputs = (
        torch.randn(ROWS, active, CONFIG.in_channels),
        torch.zeros(ROWS, active, dtype=torch.int32),
        torch.zeros(1, dtype=torch.int32),
        torch.randn(3, 1, 17 * CONFIG.width),
        torch.randn(ROWS, live, CONFIG.width),
        *past,
    )
    told = transformer_operations(CONFIG).values()
    dims = {"G": ROWS, "M": active, "N": active + cached, "T": WORDS, "L": live}
    assert sum(counted(each, **dims) for each in told) == flops_of(module, *inputs)


def test_what_conditions_a_step():
    module, steps = Conditioning(transformer_like(CONFIG)).eval(), 3
    found = flops_of(module, torch.linspace(0, 1000, steps), torch.randn(ROWS, WORDS, CONFIG.joint_attention_dim))
    assert conditioning_operations(shapes_of(module), {"S": steps, "G": ROWS, "T": WORDS}) == found


def test_a_text_encoder():
    shape = Qwen3Shape(40, 16, 32, 28, 4, 2, 4, 1e-6, 1e6)
    module, prompts = Qwen3Encoder(shape, 12, 0).eval(), 3
    found = flops_of(module, torch.randint(0, 40, (prompts, 12)))
    assert encoder_operations(shapes_of(module), {"B": prompts}, 12) == found
    assert len(module.layers) == max(TAKEN)


def test_planned_weights_are_those_of_the_bundle(flux2_twins, tmp_path):
    """No layer of the text encoders is planned that nobody reads."""
    large, small = flux2_twins
    request = BuildRequest(str(large), str(small), tmp_path / "out", tmp_path / "cache", size=(32, 32),
                           max_sequence_length=TEXT_LENGTH)  # fmt: skip
    plan = plan_for(request)
    by_name = {each.name: each for each in plan.networks}
    for member, text in (("large", "text_encoder"), ("small", "small_text_encoder")):
        pair = {"large": large, "small": small}
        whole = sum(map(math.prod, _tensors(pair[member] / "text_encoder").values()))
        assert by_name[text].parameters < whole
        stepped = by_name[member].parameters + by_name[f"condition_{member}"].parameters
        assert stepped == sum(map(math.prod, _tensors(pair[member] / "transformer").values()))


def _tensors(folder):
    from hsexport.checkpoints.shards import read_headers

    return {name: header.shape for name, header in read_headers(folder).items()}


@pytest.fixture(scope="module")
def flux2_twins(tmp_path_factory):
    root = tmp_path_factory.mktemp("planned")
    return make_flux2_pipeline(root / "large", heads=3), make_flux2_pipeline(root / "small", text=8, seed=1)
