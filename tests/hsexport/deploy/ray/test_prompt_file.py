"""Prompt files: every line counts, and a bad one fails alone."""

import os
import random

import pytest

from hsengines.errors import HSError
from hsexport.deploy.ray.prompt_file import Row, read_prompts


def read(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    return read_prompts(tmp_path / name)


def test_text_is_a_prompt_a_line_and_blank_lines_are_none(tmp_path):
    lines = read(tmp_path, "a.txt", b"red apple\n\nfox\r\n")
    assert [(line.index, line.number, line.row) for line in lines] == [(0, 1, Row("red apple")), (1, 3, Row("fox"))]


def test_objects_may_name_seed_and_negative_prompt_and_bad_ones_say_why(tmp_path):
    whole = b'{"prompt": "fox", "seed": 7, "negative_prompt": "dog", "prompt_3": "cat"}\n'
    lines = read(tmp_path, "a.jsonl", whole + b'{"prompt": 3}\n{"promt": "x"}\nno json\n')
    assert lines[0].row == Row("fox", prompt_3="cat", negative_prompt="dog", seed=7) and not lines[0].fault
    assert [line.row for line in lines[1:]] == [None] * 3
    assert "Expected `str`" in lines[1].fault and "promt" in lines[2].fault and "malformed" in lines[3].fault


def test_tables_are_read_by_their_header(tmp_path):
    lines = read(tmp_path, "a.csv", b'seed,prompt\n3,"a, b"\n,fox\nx,tree\n1,a,b\n')
    assert [line.row for line in lines] == [Row("a, b", seed=3), Row("fox"), None, None]
    assert [line.number for line in lines] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [("a.csv", b"text\nfox\n", "expected 'prompt'"), ("a.txt", b"\n \n", "no prompt"), ("a.doc", b"fox", r"\.jsonl")],
)
def test_a_file_that_will_not_do_is_refused(tmp_path, name, data, words):
    with pytest.raises(HSError, match=words):
        read(tmp_path, name, data)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "red apple\nfox"),
        ("a.csv", "prompt,seed\nred apple,\nfox,3\n"),
        ("a.csv", "prompt;seed\nred apple;\nfox;3\n"),
        ("a.csv", "prompt\tseed\nred apple\t\nfox\t3\n"),
        ("a.jsonl", '{"prompt": "red apple"}\n{"prompt": "fox"}\n'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_other_programs_write_is_read(tmp_path, name, text, encoding, end):
    lines = read(tmp_path, name, text.replace("\n", end).encode(encoding))
    assert [line.row.prompt for line in lines] == ["red apple", "fox"]


@pytest.mark.parametrize("mark", ["\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"])
@pytest.mark.parametrize(("name", "text"), [("a.txt", "red{}apple\nfox\n"), ("a.csv", "prompt\nred{}apple\nfox\n")])
def test_only_line_ends_end_a_line(tmp_path, name, text, mark):
    lines = read(tmp_path, name, text.format(mark).encode())
    assert [line.row.prompt for line in lines] == [f"red{mark}apple", "fox"]


def test_utf_16_without_its_mark_is_told(tmp_path):
    with pytest.raises(HSError, match=r"NUL bytes.*save it as UTF-8"):
        read(tmp_path, "a.txt", "fox".encode("utf-16-le"))


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv"])
def test_mutated_files_are_refused_or_read_line_by_line(tmp_path, suffix):
    """Seeded; longer by HSEXPORT_FUZZ."""
    rng = random.Random(9)
    whole = {
        ".txt": b"red apple\nfox\n",
        ".jsonl": b'{"prompt": "fox", "seed": 7}\n{"prompt": "a"}\n',
        ".csv": b'prompt,seed\n"a, b",3\nfox,\n',
    }[suffix]
    for _ in range(int(os.environ.get("HSEXPORT_FUZZ", "300"))):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(data) + 1)
            data[place : place + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        try:
            lines = read(tmp_path, f"a{suffix}", bytes(data))
        except HSError:
            continue
        assert all(line.row is not None or line.fault for line in lines)
