"""Reading bundles, and the golden bundle; `python tests/runtime/test_bundle.py` writes the golden bundle anew."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sealed import sealed

import hsengines
import hsruntime
from hsengines.spec import DimRange, EngineSpec, Profile, TensorSpec
from hsruntime.bundle.golden import load_golden, save_golden
from hsruntime.bundle.manifest import (
    FORMAT_VERSION,
    BundleError,
    EngineRecord,
    Manifest,
    OtherWeights,
    ParityRecord,
    manifest_bytes,
    manifest_from_bytes,
)
from hsruntime.bundle.reader import check_paths, open_bundle
from hsruntime.bundle.writer import write_bundle, write_defaults
from hsruntime.facts import Defaults, Facts, Latent, Lora, Positions, Sigmas, Sizes, TextSide, TextSlot, Transformer

GOLDEN = Path(__file__).parent / "golden_bundle"
FORMAT = Path(__file__).parents[3] / "runtime" / "BUNDLE.md"
ENGINES = [
    "large",
    "small",
    "condition_large",
    "condition_small",
    "text_clip",
    "text_t5",
    "join_text",
    "vae_decoder",
    "prepare",
    "guide",
    "guide_held",
    "blend",
    "advance",
    "extrapolate",
    "keep",
    "score",
    "spread",
    "select_cache",
    "merge_cache",
    "unpatchify",
]
GIVEN: dict[str, list[int | str]] = {"modulation": ["S", "G", 1, 48]}


def golden_contents() -> dict[str, bytes]:
    """The golden bundle's files: stand-ins for engines, and one real archive of arrays."""
    contents = {f"engines/{name}.onnx": f"stand-in for the engine '{name}'\n".encode() for name in ENGINES}
    contents["weights/large.bin"] = bytes(range(256))
    contents["golden/large.npz"] = _archive({"tokens": np.arange(6, dtype="<f4").reshape(1, 2, 3)})
    contents["tokenizers/clip.json"] = b'{"version": "1.0"}\n'
    contents["tokenizers/t5.json"] = b'{"version": "1.0", "model": null}\n'
    return contents


def golden_manifest() -> Manifest:
    """The golden bundle's manifest, without the files, which the writer adds."""
    return Manifest(
        format_version=FORMAT_VERSION,
        backend="ort-cpu",
        precision="fp32",
        target="cpu",
        tools={"hsexport": "0.1.0", "onnxruntime": "1.24.0"},
        device="x86_64",
        facts=Facts(
            family="sd3",
            large=_transformer("local:0123456789abcdef", layers=2, adapters=(_adapter(),)),
            small=_transformer("demo", layers=1),
            latent=Latent(channels=4, patch_size=2, vae_scale=8),
            sizes=Sizes(default=(64, 64), minimum=(32, 32), maximum=(128, 128), max_batch=2),
            sigmas=Sigmas(rule="flow-match-euler", levels=1000, shift=3.0),
            text={"text": TextSide(join="join_text", tokens=154, encoders=[_slot("clip", 49407), _slot("t5", 0)])},
            defaults=Defaults(schedule="large:10,hybrid:10,small:8", steps=28, guidance_scale=4.5),
        ),
        engines={name: _engine(name) for name in ENGINES},
        files=[],
    )


def _slot(kind: str, pad_id: int) -> TextSlot:
    tokenizer, into = f"tokenizers/{kind}.json", {"states": f"states_{kind}"}
    named = (f"text_{kind}.", f"lora_{kind}_")
    return TextSlot(engine=f"text_{kind}", tokenizer=tokenizer, length=77, pad_id=pad_id, into=into, in_loras=named)


def _adapter() -> Lora:
    return Lora(name="style.safetensors", sha256=hashlib.sha256(b"lora").hexdigest(), scale=0.8)


def _transformer(source: str, layers: int, **fields: Any) -> Transformer:
    return Transformer(
        source=source,
        parameters=1000 * layers,
        layers=layers,
        heads=2,
        head_size=8,
        image_slots=layers + 1,
        text_slots=layers,
        given=48,
        positions=Positions(origin="centre", table_size=16, rows=8, columns=8),
        text="text",
        operations={"layers": {"G*M": 6144 * layers, "G*M*N": 64 * layers}},
        **fields,
    )


def _engine(name: str) -> EngineRecord:
    is_large = name == "large"
    outputs = {
        "join_text": {"text": ["B", 154, 32], "pooled": ["B", 16]},
        "vae_decoder": {"pictures": ["B", "8*h", "8*w", 3]},
        "select_cache": {"selected": ["G", "R", 2, 8]},
        **{f"condition_{role}": GIVEN for role in ("large", "small")},
        "unpatchify": {"latents": ["B", 4, "h", "w"]},
        "text_clip": {"states": ["B", 77, 32]},
        "text_t5": {"states": ["B", 77, 32]},
    }.get(name, {"velocity": ["G", "M", 16]})
    inputs = {
        "join_text": {f"states_{kind}": ["B", 77, 32] for kind in ("clip", "t5")},
        **{role: {"tokens": ["G", "M", 16], **GIVEN} for role in ("large", "small")},
    }.get(name, {"tokens": ["G", "M", 16]})
    profiles = (Profile("full", {"G": DimRange(1, 2, 4), "M": DimRange(4, 16, 64)}),) if is_large else ()
    return EngineRecord(
        file=f"engines/{name}.onnx",
        weights=["weights/large.bin"] if is_large else [],
        spec=EngineSpec(name, _tensors(inputs), _tensors(outputs), profiles),
        build_key=hashlib.sha256(name.encode()).hexdigest(),
        precision="fp32",
        weight_format="int8" if is_large else "unquantized",
        products={"int8": 3, "unquantized": 1} if is_large else {},
        other_weights=[OtherWeights(format="unquantized", products=1, reason="its error is the velocity's")]
        if is_large
        else [],
        fp32_blocks=[],
        options={},
        audit={"network": {"float32": 4}} if is_large else {},
        golden="golden/large.npz" if is_large else None,
        parity=_parity() if is_large else None,
    )


def _tensors(shapes: dict[str, list[int | str]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, "float32", tuple(shape)) for name, shape in shapes.items())


def _parity() -> ParityRecord:
    blocks = {"transformer_blocks.0": 2e-06}
    return ParityRecord(max_absolute=1.5e-06, max_relative=2e-06, finite=True, measured_on="engine", blocks=blocks)


def _archive(arrays: dict[str, np.ndarray]) -> bytes:
    # numpy.savez leaves the archive's header to zipfile's defaults; here every byte of it is fixed.
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            archive.writestr(entry, member.getvalue())
    return stream.getvalue()


def tree_of(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def bundle_path(tmp_path: Path) -> Path:
    """A copy of the golden bundle, to be spoilt."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "bundle"))


def slots(manifest: dict[str, Any]) -> Any:
    return manifest["facts"]["text"]["text"]["encoders"]


def spec(manifest: dict[str, Any], engine: str) -> Any:
    return manifest["engines"][engine]["spec"]


def edit_manifest(bundle_path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    file = bundle_path / "manifest.json"
    manifest = json.loads(file.read_bytes())
    edit(manifest)
    file.write_bytes(sealed(json.dumps(manifest).encode()))


def move_file(bundle_path: Path, path: str) -> None:
    """Has the manifest call the file tokenizers/t5.json `path`, wherever it is referred to."""
    text = (bundle_path / "manifest.json").read_text()
    moved = text.replace('"tokenizers/t5.json"', json.dumps(path))
    (bundle_path / "manifest.json").write_bytes(sealed(moved.encode()))


def test_golden_bundle_opens() -> None:
    bundle = open_bundle(GOLDEN)
    assert bundle.manifest.engines.keys() == set(ENGINES)
    assert bundle.file("weights/large.bin").read_bytes() == bytes(range(256))


def test_golden_bundle_is_pinned_byte_for_byte(tmp_path: Path) -> None:
    write_bundle(tmp_path / "again", golden_manifest(), golden_contents())
    assert tree_of(tmp_path / "again") == tree_of(GOLDEN)


def test_manifest_reads_back_as_it_was_written() -> None:
    data = (GOLDEN / "manifest.json").read_bytes()
    assert manifest_bytes(manifest_from_bytes(data)) == data


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flipped_bit_of_a_manifest_is_refused(step: int) -> None:
    """Every thirteenth, all of them among the slow tests."""
    data = (GOLDEN / "manifest.json").read_bytes()
    for bit in range(0, 8 * len(data), step):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BundleError):
            manifest_from_bytes(bytes(flipped))


def test_identity_is_of_the_bytes_with_zeros_in_its_place() -> None:
    data = (GOLDEN / "manifest.json").read_bytes()
    identity = manifest_from_bytes(data).identity
    assert hashlib.sha256(data.replace(identity.encode(), b"0" * 64)).hexdigest() == identity


def test_pinned_identity(bundle_path: Path) -> None:
    identity = open_bundle(GOLDEN).manifest.identity
    open_bundle(bundle_path).check_identity(identity)
    write_defaults(bundle_path, Defaults(schedule="large", steps=9, guidance_scale=2.0))
    found = open_bundle(bundle_path).manifest.identity
    assert found != identity
    with pytest.raises(BundleError, match=f"has identity {found}, expected {identity}"):
        open_bundle(bundle_path).check_identity(identity)


def test_empty_directory_is_ignored(bundle_path: Path) -> None:
    (bundle_path / "engines" / "empty").mkdir()
    open_bundle(bundle_path)


def test_link_to_a_bundle_opens(bundle_path: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(bundle_path, target_is_directory=True)
    open_bundle(tmp_path / "latest")


def test_missing_bundle_is_told_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"'.*nowhere' does not exist; .*hsexport build"):
        open_bundle(tmp_path / "nowhere")


def test_file_in_place_of_a_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BundleError, match="is not a directory"):
        open_bundle(tmp_path / "file")


def test_directory_without_manifest_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle: it has no file manifest\.json"):
        open_bundle(tmp_path)


def test_file_that_the_manifest_does_not_list_has_no_path() -> None:
    with pytest.raises(BundleError, match=r"lists no file '\.\./secret'"):
        open_bundle(GOLDEN).file("../secret")


def test_flipped_byte_is_named_with_both_hashes(bundle_path: Path) -> None:
    file = bundle_path / "weights/large.bin"
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    spoilt = bytearray(file.read_bytes())
    spoilt[100] ^= 1
    file.write_bytes(spoilt)
    found = hashlib.sha256(spoilt).hexdigest()
    with pytest.raises(BundleError, match=f"'weights/large.bin' has sha256 {found}, expected {expected}"):
        open_bundle(bundle_path)


def test_flipped_byte_passes_only_where_hashes_are_declined(bundle_path: Path) -> None:
    file = bundle_path / "weights/large.bin"
    file.write_bytes(bytes(256))
    open_bundle(bundle_path, hashes=False)


@pytest.mark.parametrize("hashes", [True, False])
def test_wrong_size_is_named(bundle_path: Path, hashes: bool) -> None:
    with (bundle_path / "weights/large.bin").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(BundleError, match=r"'weights/large\.bin' has 257 bytes, expected 256"):
        open_bundle(bundle_path, hashes=hashes)


def test_missing_file_is_named(bundle_path: Path) -> None:
    (bundle_path / "golden/large.npz").unlink()
    with pytest.raises(BundleError, match=r"'golden/large\.npz' is missing"):
        open_bundle(bundle_path)


@pytest.mark.parametrize("extra", ["notes.txt", "engines/.DS_Store", "weights/deep/er.bin"])
def test_extra_file_is_named(bundle_path: Path, extra: str) -> None:
    (bundle_path / extra).parent.mkdir(exist_ok=True)
    (bundle_path / extra).write_bytes(b"")
    with pytest.raises(BundleError, match=f"'{extra}' is in the bundle, but .* does not list it"):
        open_bundle(bundle_path)


@pytest.mark.skipif(os.name != "posix", reason="needs file names that are bytes")
def test_extra_file_whose_name_is_not_text_is_named(bundle_path: Path) -> None:
    (bundle_path / os.fsdecode(b"\xff")).write_bytes(b"")
    with pytest.raises(BundleError, match="udcff") as caught:
        open_bundle(bundle_path)
    str(caught.value).encode()


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "engines/../../secret",
        "/etc/passwd",
        "C:/secret",
        "..\\secret",
        "engines\\large.onnx",
        "./engines/large.onnx",
        "engines//large.onnx",
        "engines/",
        "",
        ".",
        "..",
        ".hidden",
        "trailing.",
        "a b",
        "tab\t",
        "null\0",
        "line\n",
        "caf\u00e9",
        "~root",
    ],
)
def test_path_that_leaves_the_bundle_is_refused(bundle_path: Path, path: str) -> None:
    move_file(bundle_path, path)
    with pytest.raises(BundleError, match="is not a plain relative path inside the bundle"):
        open_bundle(bundle_path)


@pytest.mark.parametrize("path", ["a", "a/b", "text_encoder-2/tokenizer.json", "model.onnx.data", "_", "-", "a..b"])
def test_plain_path_is_admitted(path: str) -> None:
    check_paths([path])


@pytest.mark.parametrize("path", ["weights/large.bin", "Weights/LARGE.bin"])
def test_name_listed_twice_is_refused(bundle_path: Path, path: str) -> None:
    move_file(bundle_path, path)
    with pytest.raises(BundleError, match="same name twice"):
        open_bundle(bundle_path)


@pytest.mark.parametrize("path", ["manifest.json", "Manifest.JSON"])
def test_manifest_that_lists_itself_is_refused(bundle_path: Path, path: str) -> None:
    move_file(bundle_path, path)
    with pytest.raises(BundleError, match="cannot list itself"):
        open_bundle(bundle_path)


def test_symlinked_file_is_refused_even_with_the_right_bytes(bundle_path: Path, tmp_path: Path) -> None:
    file = bundle_path / "weights/large.bin"
    file.rename(tmp_path / "elsewhere.bin")
    file.symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(BundleError, match=r"'weights/large\.bin' is a symbolic link"):
        open_bundle(bundle_path)


def test_symlinked_directory_is_refused(bundle_path: Path, tmp_path: Path) -> None:
    (bundle_path / "weights").rename(tmp_path / "elsewhere")
    (bundle_path / "weights").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(BundleError, match="'weights' is a symbolic link"):
        open_bundle(bundle_path)


def test_symlinked_manifest_is_refused(bundle_path: Path, tmp_path: Path) -> None:
    (bundle_path / "manifest.json").rename(tmp_path / "manifest.json")
    (bundle_path / "manifest.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(BundleError, match="is not a bundle"):
        open_bundle(bundle_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipe_is_refused_without_reading_it(bundle_path: Path) -> None:
    (bundle_path / "weights/large.bin").unlink()
    os.mkfifo(bundle_path / "weights/large.bin")
    with pytest.raises(BundleError, match="neither a file nor a directory"):
        open_bundle(bundle_path)


def test_newer_format_asks_for_an_upgrade(bundle_path: Path) -> None:
    edit_manifest(bundle_path, lambda m: m.update(format_version=FORMAT_VERSION + 1, surprise=True))
    with pytest.raises(BundleError, match=f"format_version {FORMAT_VERSION + 1}, .*; upgrade hsexport"):
        open_bundle(bundle_path)


def test_older_format_asks_for_a_rebuild(bundle_path: Path) -> None:
    edit_manifest(bundle_path, lambda m: m.update(format_version=FORMAT_VERSION - 1))
    with pytest.raises(BundleError, match=f"format_version {FORMAT_VERSION - 1}, .*; build the bundle again"):
        open_bundle(bundle_path)


@pytest.mark.parametrize("record", [(), ("facts", "large"), ("engines", "large"), ("files", 0)])
def test_unknown_field_is_named(bundle_path: Path, record: tuple[str | int, ...]) -> None:
    def add_field(manifest: Any) -> None:
        for key in record:
            manifest = manifest[key]
        manifest["surprise"] = 1

    edit_manifest(bundle_path, add_field)
    with pytest.raises(BundleError, match="unknown field `surprise`"):
        open_bundle(bundle_path)


def test_missing_field_is_named(bundle_path: Path) -> None:
    edit_manifest(bundle_path, lambda m: m["facts"].pop("sigmas"))
    with pytest.raises(BundleError, match="missing required field `sigmas`"):
        open_bundle(bundle_path)


@pytest.mark.parametrize("kept", [0, 1, 20, 1000, -3])
def test_truncated_manifest_is_told(bundle_path: Path, kept: int) -> None:
    file = bundle_path / "manifest.json"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(BundleError, match=r"manifest\.json is not a manifest: .*truncated; build the bundle again"):
        open_bundle(bundle_path)


@pytest.mark.parametrize(
    "data",
    [
        b'{"format_version": 1, "backend": "\xff"}',
        b'{"format_version": 1, "x": ' + b"[" * 100_000,
        b'\xef\xbb\xbf{"format_version": 1}',
    ],
    ids=["not-utf-8", "deep", "byte-order-mark"],
)
def test_hostile_manifest_is_told_in_one_line(bundle_path: Path, data: bytes) -> None:
    (bundle_path / "manifest.json").write_bytes(data)
    with pytest.raises(BundleError, match=r"manifest\.json.*build the bundle again"):
        open_bundle(bundle_path)


def test_huge_manifest_is_refused_unread(bundle_path: Path) -> None:
    os.truncate(bundle_path / "manifest.json", 2**40)
    with pytest.raises(BundleError, match=f"has {2**40} bytes, allowed are {16 * 2**20}"):
        open_bundle(bundle_path)


@pytest.mark.parametrize("sha256", ["0" * 63, "A" * 64, "0" * 64 + "\n"])
def test_hash_that_is_not_64_lower_case_digits_is_refused(bundle_path: Path, sha256: str) -> None:
    edit_manifest(bundle_path, lambda m: m["files"][0].update(sha256=sha256))
    with pytest.raises(BundleError, match=r"files\[0\]\.sha256|files\[\.\.\.\]\.sha256"):
        open_bundle(bundle_path)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m["engines"]["small"].update(file="engines/none"), "engine 'small' refers to 'engines/none'"),
        (lambda m: m["engines"]["large"].update(weights=["w"]), "engine 'large', weights, refers to 'w'"),
        (lambda m: m["engines"]["large"].update(golden="../g.npz"), r"engine 'large', golden, refers to '\.\./g\.npz'"),
        (lambda m: slots(m)[1].update(tokenizer="/etc"), "'text_t5', tokenizer, refers to '/etc'"),
        (lambda m: slots(m)[0].update(engine="t6"), "has no engine 't6'"),
        *((lambda m, name=name: m["engines"].pop(name), f"has no engine '{name}'") for name in ENGINES),
    ],
)
def test_reference_to_nothing_is_named(bundle_path: Path, edit: Callable[[dict[str, Any]], object], words: str) -> None:
    edit_manifest(bundle_path, edit)
    with pytest.raises(BundleError, match=words):
        open_bundle(bundle_path)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m.update(precision="fp8"), "precision 'fp8' is unknown, the format knows fp32, fp16, bf16"),
        (lambda m: m["facts"]["small"].update(text="other"), r"small reads the text side 'other', there is \['text'\]"),
        (lambda m: slots(m)[0]["into"].update(states="states_9"), "'join_text' has no input 'states_9'"),
        (lambda m: slots(m)[0].update(into={"pooled": "states_clip"}), "'text_clip' has no output 'pooled'"),
        (lambda m: m["facts"]["sigmas"].update(shift=0), "shift"),
        (lambda m: m["facts"]["sigmas"].update(rule="karras"), "karras"),
        (
            lambda m: m["facts"]["sizes"].update(minimum=[32, 80]),
            r"sizes: height 80 \(minimum\), 64 and 128 \(maximum\)",
        ),
        (
            lambda m: m["facts"]["sizes"].update(maximum=[48, 128]),
            r"sizes: width 32 \(minimum\), 64 and 48 \(maximum\)",
        ),
        (lambda m: spec(m, "join_text")["outputs"].pop(0), r"'join_text' has no output 'text', .*\['pooled'\]"),
        (lambda m: spec(m, "join_text")["outputs"][0].update(shape=["B", "T", 32]), "with 154 tokens"),
        (lambda m: spec(m, "join_text")["outputs"][0].update(shape=["B", 154]), "expected 3 dimensions"),
        (
            lambda m: spec(m, "condition_small")["outputs"][0].update(shape=["S", "G", 1, 49]),
            "'small' has no input 'modulation' for what 'condition_small' answers",
        ),
        (lambda m: spec(m, "vae_decoder")["outputs"].clear(), "'vae_decoder' has no output 'pictures'"),
        (lambda m: spec(m, "vae_decoder").update(name="vae"), "calls itself 'vae'"),
        (lambda m: spec(m, "small")["inputs"][0].update(dtype="float33"), "'tokens': dtype 'float33' is unknown"),
        (lambda m: spec(m, "small")["inputs"][0].update(dtype="object"), "dtype 'object' is unknown"),
        (lambda m: spec(m, "small")["inputs"][0].update(shape=[-1]), "has a negative extent"),
        (lambda m: spec(m, "large")["profiles"][0]["dims"].update(G=[2, 1, 4]), "[rR]ange .* ascending"),
        (lambda m: spec(m, "large")["profiles"][0]["dims"].update(G=[-1, 1, 4]), "'full': G starts at -1"),
        (lambda m: slots(m)[0].update(pad_id=-1), "pad_id"),
        (
            lambda m: m["facts"]["large"]["adapters"][0].update(name="/home/me/style.safetensors"),
            r"adapters\[0\]\.name",
        ),
    ],
)
def test_value_that_no_session_could_use_is_named(
    bundle_path: Path, edit: Callable[[dict[str, Any]], object], words: str
) -> None:
    edit_manifest(bundle_path, edit)
    with pytest.raises(BundleError, match=words) as told:
        open_bundle(bundle_path, hashes=False)
    assert "; " in str(told.value)  # a hint follows


def test_golden_reads_back_as_it_was_saved(tmp_path: Path) -> None:
    save_golden(tmp_path / "golden.npz", {"a": np.arange(3)}, {"b": np.ones((2, 2), np.float32)})
    inputs, outputs = load_golden(tmp_path / "golden.npz")
    np.testing.assert_array_equal(inputs["a"], np.arange(3))
    np.testing.assert_array_equal(outputs["b"], np.ones((2, 2)))


def _zip_of_text() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("in/notes.txt", "no array")
    return stream.getvalue()


def _zip_of_objects() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **{"in/a": np.array([{}], object)})  # numpy pickles it
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"no archive", (GOLDEN / "golden/large.npz").read_bytes()[:-40], _zip_of_text(), _zip_of_objects(), None],
    ids=["empty", "text", "cut", "text-inside", "objects", "missing"],
)
def test_golden_that_is_no_archive_is_named(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "bad.npz").write_bytes(data)
    with pytest.raises(
        BundleError, match=r"golden '.*bad\.npz' is not an archive of arrays: .*; build the bundle again"
    ):
        load_golden(tmp_path / "bad.npz")


def test_golden_arrays_load_without_pickle() -> None:
    with np.load(open_bundle(GOLDEN).file("golden/large.npz"), allow_pickle=False) as arrays:
        assert arrays["tokens"].shape == (1, 2, 3)


def _shipped_trees() -> list[tuple[Path, ast.Module]]:
    roots = [Path(p) for package in (hsruntime, hsengines) for p in package.__path__]
    return [(file, ast.parse(file.read_bytes())) for root in roots for file in sorted(root.rglob("*.py"))]


def test_nothing_in_the_runtime_can_unpickle() -> None:
    unpicklers = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for file, tree in _shipped_trees():
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert unpicklers.isdisjoint(name.split(".")[0] for name in names), f"{file}:{node.lineno}"  # type: ignore[attr-defined]
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, f"{file}:{node.lineno}"


def test_no_backend_lets_a_plan_run_host_code() -> None:
    # TensorRT's version-compatible plans may carry a library that the runtime loads once this attribute is true.
    for file, tree in _shipped_trees():
        words = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        words |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is str}
        assert "engine_host_code_allowed" not in words, file


def test_example_in_the_format_is_the_golden_manifest_shortened() -> None:
    told = FORMAT.read_text()
    assert told.startswith(f"# The bundle format, version {FORMAT_VERSION}\n")
    example = told.split("```json\n")[1].split("```")[0]
    manifest_from_bytes(example.encode())
    shown, whole = json.loads(example), json.loads((GOLDEN / "manifest.json").read_bytes())
    assert list(shown) == list(whole)
    for key, value in shown.items():
        if key == "engines":
            assert value.items() <= whole[key].items()
        elif key == "files":
            assert all(record in whole[key] for record in value)
        elif key != "identity":
            assert value == whole[key]


def test_every_test_that_the_format_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", FORMAT.read_text()))
    defined = {
        node.name
        for file in Path(__file__).parent.glob("test_bundle*.py")
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.FunctionDef)
    }
    assert named
    assert named <= defined


if __name__ == "__main__":
    write_bundle(GOLDEN, golden_manifest(), golden_contents())
