"""The demo pair for TensorRT-RTX, built for real: this needs neither a GPU nor a driver."""

import json
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from one_line import told_in_one_line

from hsengines.build import build_options
from hsexport.build.build import build
from hsexport.build.request import BuildRequest
from hsexport.progress import Reporter

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs [rtx]")]

ARCHITECTURES = (89, 120)
OVERHEAD_BYTES = 2_500_000
"""Of each transformer layer and profile: kernels for the shapes of that profile, whatever the layer's width."""


class Notes(Reporter):
    """Remembers what each stage said of each item."""

    def __init__(self):
        self.begun, self.ended = {}, {}

    def stage(self, name, items):
        self._stage = name

    def begin(self, item, note=""):
        self.begun[self._stage, item] = note

    def end(self, item, note=""):
        self.ended[self._stage, item] = note

    def built(self, stage):
        return {item for (s, item), note in self.ended.items() if s == stage and "kept" not in note}


@pytest.fixture(scope="module")
def made(demo_cache, tmp_path_factory):
    """Bundles and what their builds said: fp16 first, then bf16, then fp16 again."""
    root = tmp_path_factory.mktemp("rtx")

    def run(precision, name):
        notes = Notes()
        options = build_options("tensorrt-rtx", precision=precision, architectures=ARCHITECTURES)
        request = BuildRequest(
            large="demo", small="demo", out=root / name, cache=demo_cache, backend="tensorrt-rtx", options=options
        )
        return SimpleNamespace(bundle=build(request, notes), notes=notes)

    return SimpleNamespace(fp16=run("fp16", "a"), bf16=run("bf16", "b"), again=run("fp16", "c"))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_engine_is_built_and_lies_within_tolerance_of_fp32(made, precision):
    manifest = getattr(made, precision).bundle.manifest
    assert (manifest.backend, manifest.precision, manifest.target) == ("tensorrt-rtx", precision, "sm_89, sm_120")
    assert {r.precision for n, r in manifest.engines.items() if n in ("large", "small", "vae_decoder")} == {precision}
    for name, record in manifest.engines.items():
        assert record.parity.measured_on == "cast-back", name
        assert record.parity.finite, name
        assert record.parity.max_relative < {"fp16": 1e-2, "bf16": 8e-2}[precision], name
        assert record.options["architectures"] == "89, 120"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_products_are_built_in_the_graphs_precision(made, precision):
    engines = getattr(made, precision).bundle.manifest.engines
    audit = engines["large"].audit["network"]
    narrow = {"fp16": "float16", "bf16": "bfloat16"}[precision]
    # Eight blocks of seven attention projections and four of feed-forwards, but for the last; the patches' embedding.
    assert audit[narrow] > 90
    assert set(audit) == {narrow}
    assert engines["condition_large"].audit["network"]["float32"] == 2, "the timestep's two layers"


def test_signature_keeps_latents_in_fp32_and_the_cache_in_half(made):
    specs = [made.fp16.bundle.manifest.engines[name].spec for name in ("condition_large", "large")]
    dtypes = {t.name: t.dtype for spec in specs for t in (*spec.inputs, *spec.outputs)}
    assert (dtypes["tokens"], dtypes["velocity"], dtypes["timesteps"]) == ("float32",) * 3
    assert {dtypes[name] for name in ("text", "pooled", "modulation", "context", "past_k_0", "present_v_7")} == {
        "float16"
    }


def test_two_profiles_share_the_weights(made):
    """The file: weights once, and kernels for each layer and profile."""
    manifest = made.fp16.bundle.manifest
    size = next(f.size_bytes for f in manifest.files if f.path.endswith("/large.engine"))
    weights, layers, profiles = 2 * manifest.facts.large.parameters, manifest.facts.large.layers, 2
    assert len(manifest.engines["large"].spec.profiles) == profiles
    assert size < 1.3 * weights + layers * profiles * OVERHEAD_BYTES


def test_another_precision_rebuilds_what_it_must_and_says_why(made):
    """Exports serve every precision; the step's own arithmetic stays fp32 in each."""
    assert made.bf16.notes.built("export") == set()
    stays = {"prepare", "guide", "guide_held", "blend", "advance", "extrapolate", "keep", "score"}
    stays |= {"spread", "unpatchify"}
    assert made.bf16.notes.built("compile") == set(made.bf16.bundle.manifest.engines) - stays
    assert "precision fp16 -> bf16" in made.bf16.notes.begun["optimise", "large"]
    assert "precision fp16 -> bf16" in made.bf16.notes.begun["compile", "large"]


def test_building_again_builds_nothing(made):
    for stage in ("export", "optimise", "compile"):
        assert made.again.notes.built(stage) == set()
    first, again = ({f.path: f.sha256 for f in m.bundle.manifest.files} for m in (made.fp16, made.again))
    assert first == again


def test_inspect_shows_profiles_types_fp32_blocks_and_key(made, hsexport):
    done = hsexport("inspect", made.fp16.bundle.path)
    assert done.returncode == 0, done.stderr
    key = made.fp16.bundle.manifest.engines["large"].build_key[:12]
    for words in ("sm_89, sm_120", "region", "R 0..179..575", "fp16", "norms", "timestep embedding", key, "cast-back"):
        assert words in done.stdout, words
    engines = json.loads(hsexport("inspect", made.fp16.bundle.path, "--json").stdout)["engines"]
    assert {block["name"] for block in engines["large"]["fp32_blocks"]} == {"norms"}
    assert "timestep embedding" in {block["name"] for block in engines["condition_large"]["fp32_blocks"]}


def test_verify_says_why_the_engines_are_left_out(made, hsexport, no_gpu):
    done = hsexport("verify", made.fp16.bundle.path)
    assert done.returncode == 0, done.stderr
    assert "none can run here" in done.stdout


def test_running_it_without_a_gpu_is_told_in_one_line(made, hsexport, no_gpu, tmp_path):
    done = hsexport("run", made.fp16.bundle.path, "--prompt", "fox", "--out", tmp_path / "fox.png")
    told_in_one_line(done, "GPU")
    assert not (tmp_path / "fox.png").exists()


@pytest.fixture
def no_gpu():
    from hsengines.cuda.device import why_no_cuda

    if not why_no_cuda():
        pytest.skip("there is a GPU")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--precision", "fp32"], ["fp32", "fp16"]),
        (["--arch", "90"], ["90", "89"]),
        (["--hardware", "ampere"], ["--hardware"]),
        (["--precision", "bf16", "--arch", "75"], ["75", "bf16"]),
        (["--strip"], ["--strip", "GPU"]),
    ],
)
def test_options_it_cannot_build_with_are_refused_up_front(hsexport, demo_cache, tmp_path, arguments, words):
    paths = ["--large", "demo", "--small", "demo", "--out", tmp_path / "b", "--cache", demo_cache]
    done = hsexport("build", *paths, "--backend", "tensorrt-rtx", *arguments)
    told_in_one_line(done, *words)
    assert "export: large" not in done.stderr


def test_fp32_block_that_holds_nothing_is_told(hsexport, demo_cache, tmp_path):
    paths = ["--large", "demo", "--small", "demo", "--out", tmp_path / "b", "--cache", demo_cache]
    done = hsexport("build", *paths, "--backend", "tensorrt-rtx", "--fp32", "large:transformer_blocks.99*")
    told_in_one_line(done, "--fp32 'large:transformer_blocks.99*' holds no node", "inspect")
    assert not (tmp_path / "b").exists()
