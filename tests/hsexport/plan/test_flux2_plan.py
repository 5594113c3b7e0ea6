"""The plan of a FLUX.2 pair: operations as graphs and torch count them, weights as a bundle holds them."""

import json

import onnx_ir as ir
import pytest
import torch
from diffusers import Flux2Transformer2DModel
from tiny_flux2 import ASKED, TEXT_LENGTH
from torch.utils.flop_counter import FlopCounterMode

from hsexport.families.flux2.parts import TAKEN
from hsexport.plan.gpus import gpu_named
from hsexport.plan.networks import resident_weights
from hsexport.plan.plan import plan_of
from hsexport.plan.work import pass_flops
from hsruntime.bundle.reader import open_bundle
from random_pairs.flux2.pair import KLEIN

TABLES = ("image_turns", "text_turns")
"""By position, which the tiny pair's weights are not much larger than."""
SIDES = ("text_encoder", "small_text_encoder")


@pytest.fixture(scope="module")
def recipe(make_recipe, flux2_dirs):
    """What the tiny pair's bundle was built from."""
    return make_recipe(*flux2_dirs, **ASKED)


@pytest.fixture(scope="module")
def counted(counted_graphs, recipe, flux2_store):
    """Call it with a network's name and extents: operations of its exported graph."""
    return counted_graphs(recipe, flux2_store)


@pytest.mark.parametrize(
    ("active", "tokens", "text_cached"), [(16, 16, False), (36, 36, False), (5, 16, False), (5, 16, True)]
)
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_large_costs_what_its_graph_holds(recipe, counted, active, tokens, text_cached, rows):
    live, kept = (0, TEXT_LENGTH) if text_cached else (TEXT_LENGTH, 0)
    over = {"G": rows, "M": active, "N": tokens, "T": TEXT_LENGTH, "L": live}
    found = counted("large", G=rows, M=active, R=tokens - active, T=live, U=kept, S=4)
    assert sum(pass_flops(recipe.facts.large, over).values()) == found


@pytest.mark.parametrize("name", ["small", "light"])
@pytest.mark.parametrize("rows", [1, 4])
def test_whole_steps_cost_what_their_graphs_hold(recipe, counted, name, rows):
    over = {"G": rows, "M": 36, "N": 36, "T": TEXT_LENGTH, "L": TEXT_LENGTH}
    found = counted(name, G=rows, N=36, T=TEXT_LENGTH, S=4)
    assert sum(pass_flops(getattr(recipe.facts, name), over).values()) == found


@pytest.mark.parametrize("name", SIDES)
def test_text_encoders_cost_what_their_graphs_hold(recipe, counted, name):
    assert recipe.planned(name, B=3) == counted(name, B=3)


@pytest.mark.parametrize("name", ["condition_large", "condition_small"])
def test_conditioning_costs_what_its_graph_holds(recipe, counted, name):
    dims = {"G": 4, "S": 9, "T": 7}
    assert recipe.planned(name, **dims) == counted(name, **dims)


@pytest.mark.parametrize("name", ["vae_decoder", "vae_encoder"])
def test_the_vae_costs_what_its_graph_holds(recipe, counted, name):
    dims = {"B": 2, "h": 6, "w": 10}
    assert recipe.planned(name, **dims) == counted(name, **dims)


def test_a_bundle_holds_the_weights_that_were_planned(recipe, flux2_bundle):
    bundle = open_bundle(flux2_bundle)
    planned = {
        network.name: sum(weight.size_bytes for weight in resident_weights(network, recipe.request))
        for network in recipe.networks()
    }
    assert planned.keys() == bundle.manifest.engines.keys()
    for name, size in planned.items():
        graph = ir.load(flux2_bundle / bundle.manifest.engines[name].file).graph
        held = sum(value.const_value.nbytes for key, value in graph.initializers.items() if key not in TABLES)
        # A loop's networks have some numbers of their own.
        assert size <= held <= 1.15 * size + 100, name


@pytest.mark.parametrize("role", ["large", "small"])
def test_a_real_step_costs_what_torch_counts_of_diffusers_model(klein_recipe, role):
    recipe, tokens, text = klein_recipe(), 4096, 512
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = Flux2Transformer2DModel(**KLEIN.transformer(role))
        model(
            hidden_states=torch.empty(1, tokens, 128),
            encoder_hidden_states=torch.empty(1, text, model.config.joint_attention_dim),
            timestep=torch.empty(1),
            img_ids=torch.empty(tokens, 4),
            txt_ids=torch.empty(text, 4),
            return_dict=False,
        )
    over = {"G": 1, "M": tokens, "N": tokens, "T": text, "L": text}
    step = sum(pass_flops(getattr(recipe.facts, role), over).values())
    conditions = recipe.planned(f"condition_{role}", G=1, S=1, T=text)
    assert step + conditions == counter.get_total_flops()


def test_a_real_plan_knows_both_text_sides_and_reads_no_layer_in_vain(klein_recipe, roomy):
    recipe = klein_recipe(backend="tensorrt", precision="bf16")
    plan = plan_of(recipe.request, recipe.facts, recipe.networks(), roomy, gpu_named("h100"))
    found = {network.name: network.parameters for network in plan.networks}
    for name, member in zip(SIDES, (KLEIN.large, KLEIN.small), strict=True):
        text = member.text
        queries, keys = text.heads * text.head_size, text.key_heads * text.head_size
        a_layer = text.width * (2 * queries + 2 * keys + 3 * text.inner + 2) + 2 * text.head_size
        assert found[name] == text.vocabulary * text.width + max(TAKEN) * a_layer
    assert found["large"] + found["condition_large"] == 9_078_581_248
    assert found["small"] + found["condition_small"] == 3_875_544_576
    assert plan.bundle_bytes == pytest.approx(2 * sum(found.values()), rel=0.01)
    assert [shortfall.hints for shortfall in plan.shortfalls] == [("--max-batch 1",)]


def test_large_alone_reads_no_prompt_by_smalls_encoder(klein_recipe, roomy):
    recipe = klein_recipe(backend="tensorrt", precision="bf16")
    work = plan_of(recipe.request, recipe.facts, recipe.networks(), roomy).work
    names, alone = ([run.name for run in runs] for runs in (work.runs, work.reference))
    assert [name for name in names if name in SIDES] == list(SIDES)
    assert [name for name in alone if name in SIDES] == ["text_encoder"]
    assert work.text_flops == sum(run.flops for run in work.runs if run.name in SIDES)


def test_the_command_plans_a_cut_pair(hsexport, hollow_pair, tmp_path):
    large, small = hollow_pair(tmp_path, "flux2", layers=1, tiny_text=True)
    done = hsexport("plan", "--large", large, "--small", small, "--backend", "tensorrt", "--gpu", "l4", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert {*SIDES, "large", "small"} < {network["name"] for network in plan["networks"]}
    assert plan["roofline"]["large"]["seconds"] > plan["roofline"]["small"]["seconds"] > 0
