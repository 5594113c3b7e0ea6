"""A batch job: every picture once, whatever ends it. Ray's own part is slow: its workers take long to start."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from one_line import told_in_one_line
from PIL import Image

from hsexport.deploy.ray.batch import tasks_of
from hsexport.deploy.ray.executor import Executor, Ledger
from hsexport.deploy.ray.prompt_file import read_prompts
from hsruntime import Session
from hsruntime.bundle.reader import open_bundle
from hsruntime.options import PictureOptions

SCHEDULE = "large:1,hybrid:1,small:1"


def tasks_for(bundle, tmp_path, text, **options):
    (tmp_path / "p.jsonl").write_text(text)
    asked = PictureOptions(schedule=SCHEDULE, **options)
    return tasks_of(read_prompts(tmp_path / "p.jsonl"), asked, open_bundle(bundle).manifest, tmp_path)


def column(tasks):
    return {"task": np.array([task.json for task in tasks], dtype=object)}


def test_an_executor_draws_what_generate_draws_records_faults_and_keeps_what_is_there(tiny_bundle, tmp_path):
    tasks = tasks_for(tiny_bundle, tmp_path, '{"prompt": "abc"}\n{"promt": 1}\n{"prompt": "xyz", "seed": 9}\n', seed=4)
    out = tmp_path / "out"
    out.mkdir()
    executor, ledger = Executor(str(tiny_bundle), str(out), "CPU", 0, {}), Ledger(out)
    told = executor(column(tasks))
    assert dict(zip(told["index"], told["status"], strict=True)) == {0: "done", 1: "failed", 2: "done"}
    assert next(error for error in told["error"] if error).startswith("line 2: ")
    with Session.open(tiny_bundle) as session:
        expected = session.generate(["abc", "xyz"], seed=[4, 9], schedule=SCHEDULE).images
    found = [np.asarray(Image.open(out / f"{tasks[i].name}.png")) for i in (0, 2)]
    np.testing.assert_array_equal(np.stack(found), expected)
    assert json.loads((out / f"{tasks[1].name}.json").read_text())["status"] == "failed"
    assert [ledger.has(task) for task in tasks] == [True, False, True]
    (out / f"{tasks[2].name}.png").write_bytes(b"half")
    assert sorted(executor(column(tasks))["status"]) == ["done", "failed", "kept"]


def test_names_change_with_whatever_changes_the_picture(tiny_bundle, tmp_path):
    line = '{"prompt": "abc"}\n'
    plain, again = (tasks_for(tiny_bundle, tmp_path, line)[0].name for _ in range(2))
    others = [
        tasks_for(tiny_bundle, tmp_path, line, seed=1)[0].name,
        tasks_for(tiny_bundle, tmp_path, line, width=24, height=24)[0].name,
        tasks_for(tiny_bundle, tmp_path, line, negative_prompt="x")[0].name,
        tasks_for(tiny_bundle, tmp_path, '{"prompt": "abcd"}\n')[0].name,
    ]
    assert plain == again and len({plain, *others}) == 5


def picture_file(path, pixels):
    Image.fromarray(pixels).save(path)
    return path.name


def test_lines_name_pictures_that_are_read_when_they_are_drawn(tiny_bundle, tmp_path):
    rng = np.random.default_rng(1)
    cat, dog = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
    mask = np.zeros((16, 16), np.uint8)
    mask[4:9, 6:13] = 255
    named = {"image": picture_file(tmp_path / "cat.png", cat), "mask": picture_file(tmp_path / "mask.png", mask)}
    lines = [{"prompt": "abc", **named}, {"prompt": "abc"}, {"prompt": "abc", "image": "none.png"}]
    lines += [{"prompt": "abc", "image": "p.jsonl"}, {"prompt": "abc", "image": "a\0b"}]
    shared = io.BytesIO()
    Image.fromarray(dog).save(shared, "PNG")
    pictures = {"image": shared.getvalue()}
    tasks = tasks_for(tiny_bundle, tmp_path, "\n".join(map(json.dumps, lines)), strength=0.7, **pictures)
    assert all(len(task.json) < 2000 for task in tasks)  # no pictures go through Ray's store
    out = tmp_path / "out"
    out.mkdir()
    executor = Executor(str(tiny_bundle), str(out), "CPU", 0, pictures)
    told = executor(column(tasks))
    statuses = dict(zip(told["index"], told["status"], strict=True))
    assert statuses == {0: "done", 1: "done", 2: "failed", 3: "failed", 4: "failed"}
    faults = "\n".join(sorted(filter(None, told["error"])))
    assert "line 3: the image 'none.png' cannot be read: No such file" in faults
    assert "line 4: the image is no picture" in faults and "line 5: the image 'a\\x00b' cannot be read" in faults
    found = [np.asarray(Image.open(out / f"{task.name}.png")) for task in tasks[:2]]
    with Session.open(tiny_bundle) as session:
        asked = {"schedule": SCHEDULE, "strength": 0.7}
        expected = [
            session.generate("abc", seed=0, image=cat, mask=mask, **asked).image,
            session.generate("abc", seed=1, image=dog, **asked).image,
        ]
    np.testing.assert_array_equal(found, expected)
    assert json.loads((out / f"{tasks[0].name}.json").read_text())["mask"] == "mask.png"


def test_names_change_with_the_pictures(tiny_bundle, tmp_path):
    line = '{"prompt": "abc", "image": "cat.png"}\n'
    names = {tasks_for(tiny_bundle, tmp_path, line)[0].name}
    for level in (0, 9):
        Image.new("RGB", (16, 16 + level)).save(tmp_path / "cat.png")
        names.add(tasks_for(tiny_bundle, tmp_path, line)[0].name)
    assert tasks_for(tiny_bundle, tmp_path, line)[0].name in names
    names |= {tasks_for(tiny_bundle, tmp_path, '{"prompt": "abc"}', image=data)[0].name for data in (b"a", b"b")}
    assert len(names) == 5


def test_options_for_pictures_that_lines_name_are_checked_beforehand(hsexport, tiny_bundle, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "abc", "image": "cat.png", "mask": "mask.png"}\n')
    (tmp_path / "q.jsonl").write_text('{"prompt": "abc"}\n')
    asked = ("batch", tiny_bundle, "--out", tmp_path / "out", "--prompts")
    told_in_one_line(hsexport(*asked, tmp_path / "p.jsonl", "--strength", "2"), "strength 2 lies outside")
    told_in_one_line(hsexport(*asked, tmp_path / "q.jsonl", "--strength", "0.5"), "no picture to begin from")


def test_options_that_would_fail_every_picture_fail_once(hsexport, tiny_bundle, tmp_path):
    (tmp_path / "p.txt").write_text("abc\n")
    asked = ("batch", tiny_bundle, "--prompts", tmp_path / "p.txt", "--out", tmp_path / "out")
    told_in_one_line(hsexport(*asked, "--schedule", "hybird:2"), "hybird")
    told_in_one_line(hsexport(*asked, "--device", "NPU"), "no device 'NPU' here, only CPU")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_killed_job_goes_on_and_draws_nothing_twice(hsexport, tiny_bundle, tmp_path):
    (tmp_path / "p.txt").write_text("".join(f"abc {i}\n" for i in range(40)) + "bad \udcff\n", errors="surrogateescape")
    out = tmp_path / "out"
    asked = ["batch", tiny_bundle, "--prompts", tmp_path / "p.txt", "--out", out, "--schedule", "large:500", "--json"]
    command = [sys.executable, "-m", "hsexport.cli.main", *map(str, asked)]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 200
    while len(list(out.glob("[0-9]*.json"))) < 3 and time.monotonic() < until and job.poll() is None:
        time.sleep(0.05)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    time.sleep(5)  # Ray's processes end with the one that started them
    before = {file: file.stat().st_mtime_ns for file in out.glob("[0-9]*.png")}
    assert 3 <= len(before) < 40
    done = hsexport(*asked, timeout=280)
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert told["done"] + told["kept"] == 40 and told["kept"] >= len(before) - 1  # one may have lacked its record
    assert len(told["failed"]) == 1 and told["failed"][0].startswith("line 41: ")
    assert sum(file.stat().st_mtime_ns == at for file, at in before.items()) >= len(before) - 1
    assert len(list(out.glob("[0-9]*.png"))) == 40 and not list(out.glob(".*.part-*"))
