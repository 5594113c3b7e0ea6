"""GGUF files, sound and hostile: every type as the gguf package has it, and a line for whatever is wrong."""

import os
import struct

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsexport.checkpoints.documents import PairError
from hsexport.checkpoints.gguf import BLOCKS, PLAIN, QUANTISED, gguf_headers
from hsexport.checkpoints.quantised import numbers_of
from hsexport.checkpoints.shards import digest_of, mark_of
from hsexport.checkpoints.weights import stored

EXAMPLES = int(os.environ.get("HSEXPORT_FUZZ", "150"))
Q8_0 = 8


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def fact(key, kind, raw):
    return text(key) + struct.pack("<I", kind) + raw


def entry(name, extents, kind, offset):
    shape = struct.pack(f"<I{len(extents)}Q", len(extents), *extents)
    return text(name) + shape + struct.pack("<IQ", kind, offset)


ARCHITECTURE = fact("general.architecture", 8, text("made-up"))


def written(path, entries, facts=(ARCHITECTURE,), *, data=4096, version=3, counts=None):
    """A file of these parts; extents are in ggml's order."""
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(entries), len(facts))))
    head += b"".join(facts) + b"".join(entries)
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(data))
    return path


def read(path):
    return {header.name: header for header in gguf_headers(path, ("made-up",))}


def test_every_type_is_the_packages_own():
    for number, name in (PLAIN | QUANTISED).items():
        assert gguf.GGMLQuantizationType(number).name == name
    sizes = {name: gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]] for name in BLOCKS}
    assert {name: each[:2] for name, each in BLOCKS.items()} == sizes
    assert set(QUANTISED.values()) == set(BLOCKS)


def random_blocks(name, count, seed=3):
    """Bytes of blocks whose factors are finite."""
    _, size, factors = BLOCKS[name]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, size), np.uint8)
    for place in factors:
        blocks[:, place : place + 2] = rng.uniform(-1, 1, count).astype(np.float16).view(np.uint8).reshape(-1, 2)
    return blocks


@pytest.fixture(params=BLOCKS)
def blocks(request, tmp_path):
    """A matrix of blocks of one type, alone in a file: file, type, bytes."""
    numbers, size, _ = BLOCKS[request.param]
    kind = gguf.GGMLQuantizationType[request.param]
    raw = random_blocks(request.param, 6).reshape(3, 2 * size)
    file = written(tmp_path / "x.gguf", [entry("w", (2 * numbers, 3), int(kind), 0)], data=0)
    file.write_bytes(file.read_bytes() + raw.tobytes())
    return file, kind, raw


def test_numbers_are_those_of_the_package(blocks):
    file, kind, raw = blocks
    header = read(file)["w"]
    expected = gguf.quants.dequantize(raw, kind)
    assert (header.dtype, header.shape, header.size_bytes) == (kind.name, expected.shape, raw.nbytes)
    found = numbers_of(header)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    assert (stored(header).quantised is None) == (kind.name != "Q8_0")


def test_factors_that_are_not_finite_are_named_while_weights_are_hashed(blocks):
    file, kind, raw = blocks
    digest_of(read(file))
    for place in BLOCKS[kind.name][2]:
        spoilt = raw.copy()
        spoilt[1, place : place + 2] = np.frombuffer(np.float16("inf").tobytes(), np.uint8)
        file.write_bytes(file.read_bytes()[: -raw.nbytes] + spoilt.tobytes())
        with pytest.raises(PairError, match=r"x\.gguf: tensor w holds 1 numbers that are not finite"):
            digest_of(read(file))


def test_blocks_are_whole_in_every_chunk(tmp_path, monkeypatch):
    """However the size of a chunk falls."""
    raw = random_blocks("Q8_0", 64)
    file = written(tmp_path / "x.gguf", [entry("w", (32, 64), Q8_0, 0)], data=0)
    file.write_bytes(file.read_bytes() + raw.tobytes())
    whole = digest_of(read(file))
    monkeypatch.setattr("hsexport.checkpoints.shards.CHUNK_BYTES", 100)
    assert digest_of(read(file)) == whole


FACTS = {
    "numbers of every kind": [fact(f"k{n}", n, struct.pack(f"<{c}", 1)) for n, c in enumerate("BbHhIif?")],
    "wide numbers": [fact(f"k{n}", n, struct.pack(f"<{c}", 1)) for n, c in ((10, "Q"), (11, "q"), (12, "d"))],
    "texts": [fact("k", 9, struct.pack("<IQ", 8, 2) + text("a") + text("bc"))],
    "an array of numbers": [fact("k", 9, struct.pack("<IQ", 6, 2) + bytes(8))],
    "an empty array": [fact("k", 9, struct.pack("<IQ", 6, 0))],
    "another alignment": [fact("general.alignment", 4, struct.pack("<I", 64))],
}


@pytest.mark.parametrize("kind", FACTS)
def test_facts_that_nobody_asks_for_are_passed_over(tmp_path, kind):
    file = written(tmp_path / "x.gguf", [entry("w", (4, 2), 0, 0)], [ARCHITECTURE, *FACTS[kind]])
    header = read(file)["w"]
    assert (header.dtype, header.shape) == ("F32", (2, 4))
    assert header.pieces[0][0] % (64 if kind == "another alignment" else 32) == 0


ENTRY = entry("w", (32, 2), Q8_0, 0)
SHAPE = "comfy.gguf.orig_shape.w"
HOSTILE = {
    "no GGUF": (lambda p: p.write_bytes(b"GGML" + bytes(60)), "is not a GGUF file: it begins with"),
    "empty": (lambda p: p.write_bytes(b""), "is not a GGUF file"),
    "a pointer": (
        lambda p: p.write_bytes(b"version https://git-lfs"),
        "is a git-lfs pointer.*; run git lfs pull",
    ),
    "another version": (lambda p: written(p, [ENTRY], version=1), "GGUF of version 1, expected 2 or 3"),
    "big-endian": (lambda p: written(p, [ENTRY], version=3 << 24), "GGUF of version 50331648"),
    "tensors without end": (
        lambda p: written(p, [ENTRY], counts=(2**63, 1)),
        "it would have 9223372036854775808 ",
    ),
    "facts without end": (lambda p: written(p, [ENTRY], counts=(1, 2**40)), "it would have 1099511627776 facts"),
    "too many tensors": (lambda p: written(p, [ENTRY], counts=(2**20, 1), data=0), "x.gguf is "),
    "array without end": (
        lambda p: written(p, [ENTRY], [fact("k", 9, struct.pack("<IQ", 8, 2**60))]),
        "would have 1152921504606846976 entries in 'k'",
    ),
    "long array": (
        lambda p: written(p, [ENTRY], [fact("k", 9, struct.pack("<IQ", 12, 2**19))]),
        "truncated: its header needs 4194304 bytes more",
    ),
    "array of arrays": (
        lambda p: written(p, [ENTRY], [fact("k", 9, struct.pack("<IQ", 9, 1))]),
        "'k' is of a type that GGUF does not have",
    ),
    "unknown kind": (lambda p: written(p, [ENTRY], [fact("k", 99, b"")]), "'k' is of a type that GGUF does not have"),
    "fact twice": (lambda p: written(p, [ENTRY], [ARCHITECTURE] * 2), "'general.architecture' stands there twice"),
    "long name": (
        lambda p: written(p, [struct.pack("<Q", 2**40)], counts=(1, 1)),
        "would have 1099511627776 bytes",
    ),
    "no text": (lambda p: written(p, [entry("a\nb", (32, 2), 0, 0)]), "a name in it is not text"),
    "no UTF-8": (lambda p: written(p, [entry(b"\xff\xfe", (32, 2), 0, 0)]), "a name in it is not text"),
    "name twice": (
        lambda p: written(p, [ENTRY, entry("w", (32, 2), Q8_0, 96)]),
        "two of its tensors have one name",
    ),
    "another architecture": (
        lambda p: written(p, [ENTRY], [fact("general.architecture", 8, text("flux"))]),
        "is a model of architecture 'flux', expected made-up; give a GGUF file of that architecture",
    ),
    "architecture of numbers": (
        lambda p: written(p, [ENTRY], [fact("general.architecture", 4, bytes(4))]),
        "is a model of architecture 0, expected made-up",
    ),
    "no extents": (lambda p: written(p, [entry("w", (), 0, 0)]), "tensor 'w' has 0 extents, expected 1 to 4"),
    "many extents": (lambda p: written(p, [entry("w", (1,) * 5, 0, 0)]), "tensor 'w' has 5 extents"),
    "no numbers": (lambda p: written(p, [entry("w", (0, 2), 0, 0)]), r"tensor w is \[2, 0\]"),
    "numbers without end": (lambda p: written(p, [entry("w", (2**40, 2**40), 0, 0)]), "tensor w is "),
    "cut block": (
        lambda p: written(p, [entry("w", (33, 2), Q8_0, 0)]),
        "tensor w has rows of 33 numbers, Q8_0 has blocks of 32",
    ),
    "known type": (lambda p: written(p, [entry("w", (256, 2), 19, 0)]), "tensor w is IQ1_S, expected one of F32, F16"),
    "unknown type": (
        lambda p: written(p, [entry("w", (32, 2), 4711, 0)]),
        r"tensor w is of an unknown type \(4711\), expected one of",
    ),
    "offset beyond": (
        lambda p: written(p, [entry("w", (32, 2), Q8_0, 2**20)]),
        r"is truncated: tensor w ends at byte \d+, the file has \d+",
    ),
    "offset without end": (lambda p: written(p, [entry("w", (32, 2), Q8_0, 2**64 - 32)]), "tensor w ends at byte"),
    "odd offset": (lambda p: written(p, [entry("w", (32, 2), Q8_0, 7)]), "tensor w begins at byte .* can begin"),
    "overlap": (
        lambda p: written(p, [ENTRY, entry("v", (32, 2), Q8_0, 32)]),
        "tensor v begins at byte .*, where no tensor can begin",
    ),
    "no alignment": (
        lambda p: written(p, [ENTRY], [fact("general.alignment", 4, struct.pack("<I", 0))]),
        "its alignment is 0, expected a power of two",
    ),
    "alignment in words": (
        lambda p: written(p, [ENTRY], [fact("general.alignment", 8, text("x"))]),
        "its alignment is 'x', expected a power of two",
    ),
    "other shape": (
        lambda p: written(p, [ENTRY], [fact(SHAPE, 9, struct.pack("<IQ2i", 5, 2, 8, 9))]),
        r"tensor w is \[2, 32\] and would have been \[8, 9\]",
    ),
    "negative shape": (
        lambda p: written(p, [ENTRY], [fact(SHAPE, 9, struct.pack("<IQ2i", 5, 2, -8, -8))]),
        r"would have been \[-8, -8\]",
    ),
    "shape in words": (lambda p: written(p, [ENTRY], [fact(SHAPE, 8, text("x"))]), "would have been 'x'"),
    "header cut": (lambda p: p.write_bytes(written(p, [ENTRY]).read_bytes()[:40]), "is truncated: its header needs"),
    "numbers cut": (
        lambda p: p.write_bytes(written(p, [ENTRY], data=0).read_bytes() + bytes(60)),
        "is truncated: tensor",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_no_file_should_have_is_told_in_a_line(tmp_path, kind):
    write, words = HOSTILE[kind]
    write(tmp_path / "x.gguf")
    with pytest.raises(PairError, match=words) as raised:
        read(tmp_path / "x.gguf")
    told = str(raised.value)
    assert "x.gguf" in told and "\n" not in told and "; " in told


def test_file_that_names_no_architecture_is_left_to_its_tensors(tmp_path):
    assert read(written(tmp_path / "x.gguf", [ENTRY], ())).keys() == {"w"}


SOUND = [entry("w", (32, 2), Q8_0, 0), entry("k", (256, 1), 12, 96), entry("b", (3,), 0, 256)]


@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_spoilt_files_are_read_or_told(tmp_path_factory, data):
    """Bits turned, bytes cut out, and an end torn off: a PairError in a line, or tensors that all can be read."""
    path = tmp_path_factory.getbasetemp() / "spoilt.gguf"
    facts = [ARCHITECTURE, *FACTS["texts"], fact(SHAPE, 9, struct.pack("<IQ2i", 5, 2, 4, 16))]
    raw = bytearray(written(path, SOUND, facts, data=288).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        if not raw:
            break
        place = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["bit", "bit", "byte", "cut", "torn"])):
            case "bit":
                raw[place] ^= 1 << data.draw(st.integers(0, 7))
            case "byte":
                raw[place] = data.draw(st.integers(0, 255))
            case "cut":
                del raw[place : place + data.draw(st.integers(1, 9))]
            case "torn":
                del raw[max(1, place) :]
    path.write_bytes(raw)
    try:
        found = read(path)
        digest_of(found), mark_of(found)
        for header in found.values():
            if header.dtype in BLOCKS or header.dtype in ("F32", "F16", "BF16"):
                assert numbers_of(header).shape == header.shape
    except PairError as err:
        assert "\n" not in str(err)
