import pytest

from hsexport.checkpoints import source
from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.hub import wanted_files
from hsexport.checkpoints.source import resolve_source
from hsexport.families.registry import FAMILIES

PARTS = FAMILIES["sd3"].parts

SD35 = [
    ".gitattributes",
    "README.md",
    "sd3.5_large.safetensors",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder_3/model-00001-of-00002.safetensors",
    "text_encoder_3/model.fp16-00001-of-00002.safetensors",
    "text_encoder_3/model.safetensors.index.json",
    "text_encoders/t5xxl_fp16.safetensors",
    "tokenizer/merges.txt",
    "tokenizer_3/spiece.model",
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
    "transformer/diffusion_pytorch_model.safetensors.index.json",
    "vae/diffusion_pytorch_model.bin",
    "vae/diffusion_pytorch_model.fp16.safetensors",
]


def test_directory_is_itself(tmp_path):
    assert resolve_source(str(tmp_path), "large") == tmp_path


@pytest.mark.parametrize("name", ["nowhere", "./no/such", "/no/such/place", "a/b/c", ""])
def test_unknown_source_names_all_three_kinds(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        PairError, match=r"small '.*' is neither a directory, a file, a hub id \(org/name\), nor 'demo'.*--small"
    ):
        resolve_source(name, "small")


def test_single_file_is_itself(tmp_path):
    file = tmp_path / "sd3.5_large.safetensors"
    file.touch()
    assert resolve_source(str(file), "large") == file


def test_local_directory_wins_over_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert resolve_source("org/name", "large", PARTS).is_dir()
    assert source.HUB_ID.fullmatch("org/name")


def test_wanted_files_leave_duplicates_and_single_files_on_the_hub():
    left = set(SD35) - set(wanted_files(SD35, PARTS))
    assert left == {
        ".gitattributes",
        "README.md",
        "sd3.5_large.safetensors",
        "text_encoder/model.fp16.safetensors",
        "text_encoder_3/model.fp16-00001-of-00002.safetensors",
        "text_encoders/t5xxl_fp16.safetensors",
        "vae/diffusion_pytorch_model.bin",
    }


def test_weights_of_a_part_left_out_stay_on_the_hub():
    less = set(wanted_files(SD35, PARTS)) - set(wanted_files(SD35, PARTS, ("text_encoder_3",)))
    assert less == {"text_encoder_3/model-00001-of-00002.safetensors"}


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_variant_is_wanted_where_there_is_nothing_else(variant):
    names = [f"transformer/diffusion_pytorch_model.{variant}.safetensors", "transformer/config.json"]
    assert sorted(wanted_files(names, PARTS)) == sorted(names)


def test_one_variant_is_wanted_of_two():
    names = [f"vae/diffusion_pytorch_model.{variant}.safetensors" for variant in ("fp16", "bf16")]
    assert wanted_files(names, PARTS) == names[1:]


def test_wanted_files_of_a_lone_transformer():
    names = ["config.json", "diffusion_pytorch_model.safetensors", "model.safetensors", "README.md"]
    assert wanted_files(names, PARTS) == ["config.json", "diffusion_pytorch_model.safetensors"]


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """A hub client that reaches nobody, over an empty cache."""
    import huggingface_hub

    def refused(*args, **kwargs):
        raise ConnectionError("Name or service not known\nsecond line")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_tree", refused)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_no_network_and_no_cache_is_told(no_network):
    with pytest.raises(PairError, match=r"could not be downloaded: Name or service not known; check the network.*PATH"):
        resolve_source("org/name", "large", PARTS)


def test_malformed_hub_id_is_told_not_traced(no_network):
    with pytest.raises(PairError, match=r"large 'org/a--b' could not be downloaded"):
        resolve_source("org/a--b", "large")
