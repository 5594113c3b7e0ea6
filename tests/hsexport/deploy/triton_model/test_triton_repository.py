import json
import shutil
import subprocess
import sys

import pytest
from google.protobuf import text_format
from one_line import told_in_one_line
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from hsengines.errors import HSError
from hsexport.deploy.triton.config import TritonOptions, config_text
from hsexport.deploy.triton.repository import write_repository
from hsruntime.bundle.manifest import BundleError
from hsruntime.bundle.reader import open_bundle


def config_of(model):
    """As Triton itself reads it."""
    return text_format.Parse((model / "config.pbtxt").read_text(), ModelConfig())


def test_config_says_what_the_bundle_takes(tiny_bundle, tmp_path):
    model = write_repository(tiny_bundle, tmp_path / "repo", TritonOptions(), name="tiny").model
    config = config_of(model)
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "python", 4)
    assert [i.name for i in config.input if not i.optional] == ["PROMPT"]
    assert {i.name for i in config.input if i.optional} == {
        "PROMPT_2", "PROMPT_3", "NEGATIVE_PROMPT", "SEED", "WIDTH", "HEIGHT", "STEPS", "GUIDANCE_SCALE", "SCHEDULE",
        "LORA",
        "IMAGE", "STRENGTH", "MASK", "MASK_BLUR", "REGION_MASK",
        "REFERENCE", "REFERENCE_2", "REFERENCE_3", "REFERENCE_4",
    }  # fmt: skip
    assert all(list(i.dims) == [1] for i in config.input)
    assert {o.name: list(o.dims) for o in config.output} == {
        "IMAGE": [-1, -1, 3], "SCHEDULE_USED": [1], "SECONDS": [1], "REGION": [-1, -1],
    }  # fmt: skip
    assert config.instance_group[0].kind == ModelInstanceGroup.KIND_CPU
    assert not config.model_transaction_policy.decoupled


def test_options_reach_the_config(tiny_bundle, tmp_path):
    options = TritonOptions(
        max_queue_delay_us=123,
        max_queue_size=7,
        queue_timeout_ms=9,
        instances=3,
        device="GPU.0",
        threads=2,
        progress=True,
        execution_env='/a "b" \\ c',
    )
    config = config_of(write_repository(tiny_bundle, tmp_path, options, name="x").model)
    batching = config.dynamic_batching
    assert batching.max_queue_delay_microseconds == 123
    assert batching.default_queue_policy.max_queue_size == 7
    assert batching.default_queue_policy.default_timeout_microseconds == 9000
    assert config.instance_group[0].count == 3
    assert config.model_transaction_policy.decoupled
    assert {o.name for o in config.output} >= {"PROGRESS"}
    assert config.parameters["device"].string_value == "GPU.0"
    assert config.parameters["threads"].string_value == "2"
    assert config.parameters["EXECUTION_ENV_PATH"].string_value == '/a "b" \\ c'


def test_gpu_bundles_get_the_first_gpu(tiny_bundle):
    import msgspec

    manifest = msgspec.structs.replace(open_bundle(tiny_bundle).manifest, backend="tensorrt")
    config = text_format.Parse(config_text("x", manifest, TritonOptions()), ModelConfig())
    assert config.instance_group[0].kind == ModelInstanceGroup.KIND_GPU
    assert list(config.instance_group[0].gpus) == [0]


@pytest.mark.parametrize("link", [True, False])
def test_the_models_bundle_is_whole_and_shares_bytes_only_if_asked(tiny_bundle, tmp_path, link):
    written = write_repository(tiny_bundle, tmp_path / "repo", TritonOptions(), name="x", link=link)
    copy = open_bundle(written.model / "1" / "bundle")
    assert copy.manifest == open_bundle(tiny_bundle).manifest
    shared = [(copy.path / f.path).samefile(tiny_bundle / f.path) for f in copy.manifest.files]
    assert all(shared) if link else not any(shared)
    assert written.linked == (len(shared) + 1 if link else 0)


def test_writing_again_replaces_the_model_and_leaves_nothing_behind(tiny_bundle, tmp_path):
    for delay in (1, 2):
        options = TritonOptions(max_queue_delay_us=delay)
        model = write_repository(tiny_bundle, tmp_path / "repo", options, name="x").model
    assert config_of(model).dynamic_batching.max_queue_delay_microseconds == 2
    assert [p.name for p in tmp_path.iterdir()] == ["repo"]
    assert [p.name for p in (tmp_path / "repo").iterdir()] == ["x"]


def test_what_a_killed_write_left_goes_with_the_next(tiny_bundle, tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    left = tmp_path / f".repo.partial-{child.pid}"
    (left / "new" / "1").mkdir(parents=True)
    write_repository(tiny_bundle, tmp_path / "repo", TritonOptions(), name="tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["repo"]


def test_a_failed_write_keeps_the_old_model(tiny_bundle, tmp_path, monkeypatch):
    repo = tmp_path / "repo"
    model = write_repository(tiny_bundle, repo, TritonOptions(), name="x").model
    before = (model / "config.pbtxt").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        write_repository(tiny_bundle, repo, TritonOptions(max_queue_delay_us=2), name="x")
    assert (model / "config.pbtxt").read_bytes() == before
    open_bundle(model / "1" / "bundle")
    assert [p.name for p in tmp_path.iterdir()] == ["repo"]


@pytest.mark.parametrize("foreign", ["file", "folder", "link", "other model"])
def test_what_something_else_wrote_is_not_overwritten(tiny_bundle, tmp_path, foreign):
    place = tmp_path / "repo" / "x"
    place.parent.mkdir()
    if foreign == "file":
        place.write_text("mine")
    elif foreign == "link":
        place.symlink_to(write_repository(tiny_bundle, tmp_path / "elsewhere", TritonOptions(), name="x").model)
    else:
        place.mkdir()
        if foreign == "other model":
            (place / "config.pbtxt").write_text('name: "x"\n')
    with pytest.raises(HSError, match=r"not written by hsexport triton.*another --name"):
        write_repository(tiny_bundle, tmp_path / "repo", TritonOptions(), name="x")


@pytest.mark.parametrize("name", ["", "a b", "../x", ".hidden", "ä"])
def test_names_that_no_address_carries_are_refused(tiny_bundle, tmp_path, name):
    with pytest.raises(HSError, match="cannot name a model"):
        write_repository(tiny_bundle, tmp_path / "repo", TritonOptions(), name=name)
    assert not (tmp_path / "repo").exists()


def test_what_is_no_bundle_leaves_no_repository(tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(BundleError):
        write_repository(tmp_path / "nothing", tmp_path / "repo", TritonOptions())
    assert not (tmp_path / "repo").exists()


def test_the_command_names_the_model_after_the_bundle(hsexport, tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "apple.bundle")
    done = hsexport("triton", tmp_path / "apple.bundle", "--out", tmp_path / "repo", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["name"], summary["max_batch"], summary["progress"]) == ("apple", 4, False)
    assert (tmp_path / "repo" / "apple" / "1" / "model.py").is_file()


def test_the_command_tells_errors_in_one_line(hsexport, tiny_bundle, tmp_path):
    (tmp_path / "repo" / "x").mkdir(parents=True)
    told_in_one_line(
        hsexport("triton", tiny_bundle, "--out", tmp_path / "repo", "--name", "x"), "repo/x", "not be overwritten"
    )
