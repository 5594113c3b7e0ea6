"""What a plan says of sizes, and when it finds no room."""

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest

from hsengines.build import build_options
from hsexport.plan.gpus import GPUS, GpuError, gpu_named
from hsexport.plan.machine import Download, machine_at
from hsexport.plan.plan import RoomError, check_room, plan_of
from hsexport.plan.work import specs_of
from hsruntime.bundle.reader import open_bundle
from hsruntime.loop.buffers import LoopShape, loop_bytes

GB = 1e9


def network(plan, name):
    return next(each for each in plan.networks if each.name == name)


def stage(plan, name):
    return next(each for each in plan.stages if each.name == name)


def plan_for(recipe, machine, gpu=None):
    return plan_of(recipe.request, recipe.facts, recipe.networks(), machine, gpu)


def test_the_real_pair_takes_what_its_headers_say(sd35_recipe, roomy):
    plan = plan_for(sd35_recipe(backend="tensorrt", precision="bf16"), roomy)
    tables = 192**2 * 2432 + 384**2 * 1536
    chunks = 6 * 38 + 6 * 37 + 2 + 2  # shifts, scales and gates
    conditions = 2433 * 2432 * chunks + 2432 * (4096 + 1) + 2432 * (256 + 2048 + 2 * 2432 + 4)
    numbers = 8_056_627_520 + 2_243_171_520 + tables + 123_650_304 + 694_659_840 + 4_762_310_656 + 83_819_683
    assert sum(each.checkpoint_bytes for each in plan.networks) == 2 * numbers
    assert network(plan, "text_encoder_3").parameters == 4_762_310_656
    table, unread = 96**2 * 2432, 2432 * 2433 + 64  # 1536 pixels are 96 tokens a side; the last text queries
    assert network(plan, "condition_large").parameters == conditions > 8_056_627_520 / 3
    assert network(plan, "large").parameters == 8_056_627_520 + table - unread - conditions
    assert network(plan, "vae_decoder").parameters == 49_545_475
    assert plan.bundle_bytes == pytest.approx(2 * sum(n.parameters for n in plan.networks), rel=1e-3)
    assert not plan.shortfalls


def test_only_what_changes_is_copied_for_builders_that_read_the_checkpoint(sd35_recipe, roomy):
    copied = {
        (backend, precision): stage(plan_for(sd35_recipe(backend=backend, precision=precision), roomy), "optimise")
        for backend, precision in [
            ("tensorrt", "bf16"),
            ("tensorrt", "fp16"),
            ("ort-cuda", "bf16"),
            ("ort-cpu", "fp32"),
        ]
    }
    assert copied["tensorrt", "bf16"].disk_bytes < 0.3 * GB
    assert copied["ort-cuda", "bf16"].disk_bytes == pytest.approx(31.9 * GB, rel=0.01)
    assert copied["tensorrt", "fp16"].disk_bytes > copied["ort-cuda", "bf16"].disk_bytes  # T5's products stay fp32
    assert copied["ort-cpu", "fp32"].disk_bytes == pytest.approx(63.8 * GB, rel=0.01)
    assert max(each.host_bytes for each in copied.values()) < 3 * GB


def test_engines_hold_the_weights_that_were_planned(tiny_recipe, tiny_bundle, roomy):
    plan, bundle = plan_for(tiny_recipe(), roomy), open_bundle(tiny_bundle)
    for planned in plan.networks:
        graph = ir.load(tiny_bundle / bundle.manifest.engines[planned.name].file).graph
        held = sum(value.const_value.size for value in graph.initializers.values())
        # A graph brings some constants of its own, such as the frequencies of the timestep's embedding.
        assert planned.parameters <= held <= planned.parameters + 1000


def test_facts_and_networks_are_what_a_build_writes_into_the_manifest(tiny_recipe, tiny_bundle):
    recipe, built = tiny_recipe(light=(1, 1)), open_bundle(tiny_bundle).manifest
    assert recipe.facts == built.facts
    assert {network.name: network.spec for network in recipe.networks()} == {
        name: record.spec for name, record in built.engines.items()
    }


def test_a_narrow_bundle_keeps_narrow_keys_and_values(sd35_recipe):
    networks = {network.name: network for network in sd35_recipe(backend="tensorrt", precision="bf16").networks()}
    assert {tensor.dtype for tensor in networks["select_cache"].spec_at("bf16").outputs} == {"bfloat16"}


def test_running_memory_is_the_loops_own_count_and_the_weights(sd35_recipe, roomy):
    recipe = sd35_recipe(backend="tensorrt", precision="bf16", max_batch=2)
    plan = plan_for(recipe, roomy)
    assert [(case.size, case.pictures) for case in plan.memory] == [
        ((1024, 1024), 1),
        ((1024, 1024), 2),
        ((1536, 1536), 1),
        ((1536, 1536), 2),
    ]
    one = plan.memory[0]
    shape = LoopShape(1, 2, (64, 64), 1216, 32)
    specs = specs_of(recipe.request, {each.name: each for each in recipe.networks()})
    loop = loop_bytes(recipe.facts, specs, shape)
    assert one.cache_bytes + one.loop_bytes == loop
    assert one.weights_bytes == plan.bundle_bytes
    scratch = max(one.full_bytes, one.region_bytes, one.small_bytes, one.decoder_bytes)
    assert one.total_bytes == one.weights_bytes + loop + scratch + one.process_bytes
    assert one.region_bytes < one.full_bytes


def test_a_schedule_without_a_region_needs_half_the_keys_and_values(sd35_recipe, roomy):
    with_region, without = (
        plan_for(sd35_recipe(backend="tensorrt", precision="bf16", schedule=schedule), roomy).memory[0]
        for schedule in ("hybridstitch", "tstitch")
    )
    assert with_region.cache_bytes == 2 * without.cache_bytes
    assert without.region_bytes == 0


def test_scores_count_where_attention_writes_them_out(sd35_recipe, roomy):
    fused, written = (
        plan_for(sd35_recipe(backend=backend, precision="bf16"), roomy).memory[0].full_bytes
        for backend in ("tensorrt", "ort-cuda")
    )
    assert written - fused > 2 * 38 * 4096**2 * 2


def test_work_is_told_by_step_and_by_picture(sd35_recipe, roomy):
    plan = plan_for(sd35_recipe(backend="tensorrt", precision="bf16"), roomy, gpu_named("h100"))
    work, line = plan.work, plan.roofline
    steps = 8 * work.large.run.flops + 7 * work.region.run.flops + 21 * work.small.run.flops  # gap: one more small
    large, small = (sum(r.flops for r in work.runs if r.name == f"condition_{role}") for role in ("large", "small"))
    assert 0 < small < large < 0.01 * work.large.run.flops * 28
    assert work.flops == steps + work.text_flops + large + small + work.decode_flops
    assert work.reference_flops == 28 * work.large.run.flops + work.text_flops + large + work.decode_flops
    assert work.speedup == pytest.approx((work.reference_flops - 15e12) / (work.flops - 15e12), abs=0.01)
    assert line.large.seconds == work.large.run.flops / 989.4e12
    assert line.large.bound == "compute"
    assert line.picture_seconds > steps / 989.4e12


def test_a_small_picture_is_bound_by_reading_weights(sd35_recipe, roomy):
    recipe = sd35_recipe(backend="tensorrt", precision="bf16", size=(64, 64), guidance_scale=1.0)
    plan = plan_for(recipe, roomy, gpu_named("h100"))
    assert plan.roofline.small.bound == "memory"
    assert plan.roofline.small.seconds == network(plan, "small").bundle_bytes / 3.35e12


def test_a_gpu_that_is_too_small_is_told_with_what_would_fit(sd35_recipe, roomy):
    recipe = sd35_recipe(backend="tensorrt", precision="bf16")
    (tight,) = plan_for(recipe, roomy, gpu_named("H100 SXM")).shortfalls
    assert str(tight).startswith("4 of 1536x1536 at once on H100 SXM needs 1")
    assert "--max-batch 2" in tight.hints
    assert "--max-size 1024x1024" in tight.hints
    (none,) = plan_for(recipe, roomy, gpu_named("l4")).shortfalls
    assert none.hints == ("--max-batch 1 --max-size 1024x1024 and --weights int4,text=int8 (18.6 GB)",)
    assert not plan_for(
        sd35_recipe(backend="tensorrt", precision="bf16", max_batch=1), roomy, gpu_named("h100")
    ).shortfalls


def test_every_hint_that_is_an_option_makes_it_fit(sd35_recipe, roomy):
    options = {"backend": "tensorrt", "precision": "bf16"}
    gpu = gpu_named("h100")
    for hint in ({"max_batch": 2}, {"max_size": (1024, 1024)}):
        assert not plan_for(sd35_recipe(**options, **hint), roomy, gpu).shortfalls
    assert plan_for(sd35_recipe(**options, max_batch=3), roomy, gpu).shortfalls


def test_streamed_weights_take_the_room_that_is_left(sd35_recipe, roomy):
    options = build_options("tensorrt", precision="bf16", weight_streaming=True)
    assert not plan_for(
        sd35_recipe(backend="tensorrt", options=options, max_batch=1), roomy, gpu_named("l4")
    ).shortfalls
    (tight,) = plan_for(sd35_recipe(backend="tensorrt", options=options), roomy, gpu_named("l4")).shortfalls
    assert "--max-batch 1" in tight.hints
    assert not [hint for hint in tight.hints if "streaming" in hint]


def test_a_build_without_disk_is_refused_unless_the_cache_holds_it(sd35_recipe, roomy):
    recipe = sd35_recipe(backend="tensorrt", precision="bf16")
    cramped = replace(roomy, cache_free_bytes=10**9)
    with pytest.raises(
        RoomError, match=r"the cache needs 32.\d GB, 1.0 GB are there; free some space or name another --cache"
    ):
        check_room(plan_for(recipe, cramped))
    check_room(plan_for(recipe, replace(cramped, held_bytes=40 * 10**9)))


def test_a_bundle_on_another_disk_needs_room_there(sd35_recipe, roomy):
    recipe = sd35_recipe(backend="ort-cuda", precision="bf16")
    elsewhere = replace(roomy, one_disk=False, out_free_bytes=10**9)
    with pytest.raises(RoomError, match=r"the bundle needs 32.\d GB, 1.0 GB are there; .* --out"):
        check_room(plan_for(recipe, elsewhere))
    check_room(plan_for(recipe, replace(roomy, out_free_bytes=10**9)))


def test_memory_refuses_only_what_needs_it_for_certain(sd35_recipe, roomy):
    recipe = sd35_recipe(backend="tensorrt", precision="bf16")
    modest = plan_for(recipe, replace(roomy, memory_bytes=8 * 10**9))
    assert [shortfall.what for shortfall in modest.shortfalls] == ["the stage compile", "the stage verify"]
    assert [told.partition(" GB, 8.0 GB are there; ")[2] for told in check_room(modest)] == [
        "close other programs or build on a machine with more memory"
    ] * 2
    with pytest.raises(RoomError, match=r"the stage export needs 1.\d GB, 500.0 MB are there"):
        check_room(plan_for(recipe, replace(roomy, memory_bytes=5 * 10**8)))


def test_a_build_that_stops_early_needs_only_what_comes_before(sd35_recipe, roomy):
    cramped = replace(roomy, cache_free_bytes=10**9)
    plan = plan_for(sd35_recipe(backend="tensorrt", precision="bf16", stop_after="optimise"), cramped)
    assert [each.name for each in plan.stages] == ["export", "optimise"]
    check_room(plan)


def test_a_checkpoint_on_another_disk_is_copied(sd35_recipe, roomy):
    recipe = sd35_recipe(backend="tensorrt", precision="bf16")
    copied = stage(plan_for(recipe, replace(roomy, checkpoint_beside_cache=False)), "optimise")
    assert copied.disk_bytes == pytest.approx(31.9 * GB, rel=0.01)


@pytest.mark.parametrize(
    ("beside_cache", "free", "words"),
    [
        (False, 10 * GB, "the download needs 20.0 GB, 10.0 GB are there; free some space or set HF_HUB_CACHE"),
        (True, 20 * GB, "the download with the cache needs 20.0 GB, 20.0 GB are there; free some"),
    ],
)
def test_a_download_needs_room_too(tiny_recipe, roomy, beside_cache, free, words):
    download = Download(int(20 * GB), int(free), beside_cache=beside_cache)
    machine = replace(roomy, download=download, cache_free_bytes=int(20 * GB))
    with pytest.raises(RoomError, match=words):
        check_room(plan_for(tiny_recipe(), machine))
    check_room(plan_for(tiny_recipe(), replace(roomy, download=replace(download, free_bytes=int(21 * GB)))))


def test_a_build_asks_before_it_starts(tiny_pair_dirs, tmp_path, monkeypatch, roomy):
    from hsexport.build import build
    from hsexport.build.request import BuildRequest
    from hsexport.plan import plan
    from hsexport.progress import Reporter

    monkeypatch.setattr(plan, "machine_at", lambda *_: replace(roomy, cache_free_bytes=0))
    request = BuildRequest(*map(str, tiny_pair_dirs), out=tmp_path / "bundle", cache=tmp_path / "cache")
    with pytest.raises(RoomError, match="the cache needs"):
        build.build(request, Reporter(), plan.ask_room)
    assert not list(tmp_path.iterdir())


def test_the_machine_counts_a_linked_file_once(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a").write_bytes(bytes(5000))
    (tmp_path / "cache" / "b").hardlink_to(tmp_path / "cache" / "a")
    machine = machine_at(tmp_path / "not" / "yet", tmp_path / "cache", tmp_path)
    assert machine.held_bytes == 5000
    assert machine.one_disk and machine.checkpoint_beside_cache
    assert machine.memory_bytes > 10**8


def test_gpus_go_by_key_or_name():
    assert all(gpu_named(gpu.key) is gpu and gpu_named(gpu.name) is gpu for gpu in GPUS.values())
    assert gpu_named("RTX-4090").memory_gb == 24
    with pytest.raises(GpuError, match=r"the GPU 'voodoo2'; choose one of h100, a100"):
        gpu_named("voodoo2")


def test_weights_in_fewer_bits_are_counted_and_proposed_mildest_first(sd35_recipe, roomy):
    def asked(weights, **more):
        options = build_options("tensorrt", precision="bf16", weights=weights)
        return plan_for(sd35_recipe(backend="tensorrt", options=options, max_batch=1, **more), roomy, gpu_named("h100"))

    plain = plan_for(sd35_recipe(backend="tensorrt", precision="bf16", max_batch=1), roomy)
    eight, four = asked("int8"), asked("int4,text=int8")
    large = [network(plan, "large").bundle_bytes for plan in (plain, eight, four)]
    assert 0.5 < large[1] / large[0] < 0.52  # position table and patches stay
    assert 0.26 < large[2] / large[0] < 0.31  # first and last block in 8 bits, scales
    assert [network(four, name).weights for name in ("large", "text_encoder", "vae_decoder")] == [
        *("int4", "int8", "unquantized")
    ]
    assert network(four, "vae_decoder").bundle_bytes == network(plain, "vae_decoder").bundle_bytes
    (tight,) = plan_for(
        sd35_recipe(backend="tensorrt", precision="bf16", max_batch=1), roomy, gpu_named("rtx5090")
    ).shortfalls
    proposed = [hint for hint in tight.hints if hint.startswith("--weights")]
    assert proposed, tight.hints
    assert "text=int8" in proposed[0]


def test_tables_and_convolutions_count_as_the_backend_stores_them_and_quantising_takes_memory(sd35_recipe, roomy):
    plain, eight = (
        plan_for(sd35_recipe(options=build_options("ort-cpu", weights=weights)), roomy)
        for weights in ("unquantized", "int8")
    )
    for name in ("vae_decoder", "vae_encoder", "text_encoder", "text_encoder_3"):
        assert network(eight, name).bundle_bytes < 0.27 * network(plain, name).bundle_bytes
    assert network(eight, "vae_decoder").weights == "int8"
    largest = max(net.largest_parameters for net in eight.networks)
    assert stage(eight, "optimise").host_bytes - stage(plain, "optimise").host_bytes == 3 * largest
    assert stage(eight, "export").host_bytes == stage(plain, "export").host_bytes


def test_roofline_of_products_in_8_bits_is_faster_by_those_alone(sd35_recipe, roomy):
    def seconds(weights, **more):
        options = build_options("tensorrt", precision="bf16", weights=weights)
        recipe = sd35_recipe(backend="tensorrt", options=options, **more)
        return plan_for(recipe, roomy, gpu_named("h100")).roofline.large.seconds

    plain, stored, calibrated = seconds("unquantized"), seconds("fp8"), seconds("fp8", calibration=Path("known"))
    assert stored == plain
    assert 0.5 * plain < calibrated < 0.75 * plain
