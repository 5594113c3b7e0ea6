"""Bundles whose checksums are right, and which mean no good: refused by name, or drawn; nothing hangs or crashes."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sealed import sealed

from hsruntime.bundle import golden
from hsruntime.bundle.golden import load_golden
from hsruntime.bundle.manifest import BundleError
from hsruntime.bundle.reader import OpenToAllWarning, open_bundle
from hsruntime.text import tokenize

MUTATIONS = int(os.environ.get("HSEXPORT_FUZZ", "60"))
"""More by the variable."""

WORKER = """
import sys, warnings
from hsengines.errors import HSError
from hsruntime import Session
warnings.simplefilter("ignore")
for line in sys.stdin:
    try:
        with Session.open(line.strip(), threads=1) as session:
            session.generate("red", schedule="large:1,hybrid:1,small:1")
        print("drawn", flush=True)
    except HSError as err:
        print("refused", str(err).replace("\\n", " "), flush=True)
"""


def vouch(bundle: Path) -> None:
    """Sizes, hashes and identity put right, whatever the files hold."""
    file = bundle / "manifest.json"
    manifest = json.loads(file.read_bytes())
    for record in manifest["files"]:
        data = (bundle / record["path"]).read_bytes()
        record |= {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    file.write_bytes(sealed(json.dumps(manifest).encode()))


def mutate(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[place] ^= 1 << rng.randrange(8)
            case 1:
                data[place] = rng.choice([0, 0x7F, 0xFF])
            case 2:
                del data[place : place + rng.randint(1, 8)]
            case 3:
                data[place:place] = rng.randbytes(rng.randint(1, 8))


def test_mutated_bundles_that_vouch_for_themselves(tiny_bundle, tmp_path):
    """Seeded: graphs, tokenizers, the manifest's own numbers. The worker is a process of its own, to see it crash."""
    rng = random.Random(11)
    names = [p.relative_to(tiny_bundle) for p in tiny_bundle.rglob("*") if p.suffix in (".onnx", ".json")]
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    answers = []
    for number in range(MUTATIONS):
        bundle = tmp_path / str(number)
        shutil.copytree(tiny_bundle, bundle, copy_function=os.link)
        name = rng.choice(names)
        data = bytearray((bundle / name).read_bytes())
        mutate(data, rng)
        for file in (name, Path("manifest.json")):
            whole = (bundle / file).read_bytes()
            (bundle / file).unlink()  # hard links: never written through
            (bundle / file).write_bytes(whole)
        (bundle / name).write_bytes(data)
        if name.name != "manifest.json":
            vouch(bundle)
        else:
            (bundle / name).write_bytes(sealed(bytes(data)))
        worker.stdin.write(f"{bundle}\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
        assert answer.startswith(("drawn", "refused")), f"{number}, {name}: the worker ended with {worker.wait(30)}"
        answers.append(answer.split()[0])
        shutil.rmtree(bundle)
    worker.stdin.close()
    assert worker.wait(60) == 0
    assert "refused" in answers


def test_a_golden_that_unpacks_to_more_than_it_may_is_refused_unread(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/x.npy", bytes(2**22))
    monkeypatch.setattr(golden, "MOST_BYTES", 2**20)
    with pytest.raises(
        BundleError, match=r"bomb\.npz' is not an archive of arrays: its arrays would take 4194304 bytes"
    ):
        load_golden(tmp_path / "bomb.npz")


def test_a_tokenizer_without_end_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenize, "MOST_BYTES", 100)
    (tmp_path / "t.json").write_bytes(bytes(101))
    with pytest.raises(BundleError, match=r"t\.json' has 101 bytes, allowed are 100"):
        tokenize._tokenizer_from_file(tmp_path / "t.json")


def test_a_file_that_every_user_may_write_is_told(tiny_bundle, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    file = next(file for file in (bundle / "engines").rglob("*") if file.is_file())
    file.chmod(0o666)
    with pytest.warns(OpenToAllWarning, match=f"{file.name} may be written by every user"):
        open_bundle(bundle)


def test_golden_of_a_real_build_is_within_bounds(tiny_bundle):
    for file in tiny_bundle.rglob("*.npz"):
        inputs, outputs = load_golden(file)
        assert all(isinstance(array, np.ndarray) for array in (*inputs.values(), *outputs.values()))
