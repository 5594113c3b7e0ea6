"""Bundles of one pair side by side: what is measured, what is refused, and what the report says."""

import re
import shutil
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from hsexport.measure.bench.against import compare
from hsexport.measure.bench.bench import BenchRequest
from hsexport.measure.bench.comparable import CannotCompare, check_comparable, opened_all
from hsexport.measure.bench.comparison import comparison_from_json, comparison_json, headline, markdown
from hsexport.measure.bench.comparison_page import merged_rounds, write_comparison
from hsexport.measure.bench.table import block
from hsexport.measure.turns import Estimate
from hsexport.progress import Reporter
from hsruntime import Session
from hsruntime.bundle.reader import open_bundle
from hsruntime.schedule.presets import schedule_from_text

SCHEDULES = ("large:2,hybrid:1,small:1", "large:3")
LAST = "large:3"


class Drawn(Reporter):
    """Counts what is drawn."""

    def __init__(self):
        self.rounds, self.stages = 0, []

    def stage(self, name, items):
        self.stages.append(name)
        self.rounds += items * (name == "draw")


@pytest.fixture(scope="module")
def request_(tiny_bundle, tmp_path_factory):
    """The tiny bundle beside a copy of it, whose pictures are the same."""
    folder = tmp_path_factory.mktemp("against")
    twin, prompts = folder / "twin", folder / "prompts.txt"
    shutil.copytree(tiny_bundle, twin)
    prompts.write_text("abc\nfox\nabcdefghijklmnopqrstuvwxyz\n")
    asked = {"prompts": 3, "prompt_file": prompts, "threads": 1}
    return BenchRequest(tiny_bundle, folder / "work", SCHEDULES, against=(twin,), **asked)


@pytest.fixture(scope="module")
def done(request_):
    return compare(request_, Reporter())


@pytest.fixture(scope="module")
def report(done):
    return replace(done.report, command="hsexport bench a --against b")


def test_each_bundle_has_a_row_for_each_schedule(report, tiny_bundle):
    schedules = ["large:2,hybrid:1,small:1;signal=gap,ratio=0.3", LAST]
    assert [(row.name, row.schedule) for row in report.rows] == [(n, s) for s in schedules for n in ("bundle", "twin")]
    on_disk = sum(file.stat().st_size for file in tiny_bundle.rglob("*") if file.is_file())
    for row in report.rows:
        assert row.size_bytes == on_disk
        assert 10e6 < row.opened_bytes <= row.peak_bytes < 2e9  # a process of Python alone has 10 MB
        assert 0 < row.picture_ms.low <= row.picture_ms.value <= row.picture_ms.high


def test_speedups_are_ratios_of_whole_pictures_within_a_round(report):
    assert report.row("bundle").speedup == Estimate(1.0, 1.0, 1.0)
    for schedule in report.schedules:
        ratios = [t.picture_seconds["bundle"] / t.picture_seconds["twin"] for t in report.times[schedule]]
        assert report.row("twin", schedule).speedup.value == pytest.approx(np.median(ratios))
        assert report.row("twin", schedule).quartiles == pytest.approx(np.percentile(ratios, [25, 75]))


def test_pictures_of_one_noise_and_prompt_are_held_to_the_firsts(report, done, tiny_bundle):
    assert report.row("bundle").to_first is None
    same = report.row("twin").to_first
    assert same.psnr.value == pytest.approx(58.9, abs=0.05) and same.flip.value == same.stlpips.value == 0
    played = done.rounds[LAST][1]
    with Session.open(tiny_bundle, threads=1) as session:
        own = session.generate("fox", seed=played.prompt.seed, schedule=LAST).image
    assert np.array_equal(played.shots["bundle"].picture, own)


def test_prompts_that_are_cut_in_another_process_are_told(report):
    assert report.notes == ["1 prompts are longer than the text encoders read; their ends were not seen."]


def test_a_second_run_draws_and_opens_nothing(request_, done):
    drawn = Drawn()
    again = compare(request_, drawn)
    assert drawn.stages == []
    assert again.report.rows == done.report.rows


@pytest.mark.slow
def test_another_backend_draws_nearly_the_same_pictures(request_, tiny_openvino_bundle, tmp_path):
    drawn = Drawn()
    asked = replace(request_, against=(*request_.against, tiny_openvino_bundle), work=tmp_path, schedules=(LAST,))
    report = compare(asked, drawn).report
    assert drawn.rounds == 3 and len(report.bundles) == 3
    other = next(row for row in report.rows if report.bundles[row.name].backend == "openvino")
    assert other.to_first.psnr.low > 40


@pytest.fixture(scope="module")
def opened(tiny_bundle):
    return open_bundle(tiny_bundle)


def changed(bundle, **facts):
    manifest = bundle.manifest
    of = msgspec.structs.replace
    return replace(bundle, manifest=of(manifest, facts=of(manifest.facts, **facts)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: {"latent": msgspec.structs.replace(f.latent, channels=16)}, r"latent\.channels is 16, not 4"),
        (lambda f: {"sigmas": msgspec.structs.replace(f.sigmas, shift=1.5)}, r"sigmas\.shift is 1\.5, not 3"),
        (lambda f: {"large": msgspec.structs.replace(f.large, parameters=7)}, r"large\.parameters is 7, not \d+"),
        (
            lambda f: {"text": {n: msgspec.structs.replace(s, tokens=5) for n, s in f.text.items()}},
            r"text\.\w+\.tokens is 5, not \d+; name bundles of one pair",
        ),
        (
            lambda f: {"sizes": msgspec.structs.replace(f.sizes, default=(8, 8), maximum=(8, 8))},
            r"width 16 lies outside the bundle's 8\.\.8; build with",
        ),
        (lambda _: {"small": None}, r"segment 1 \(small:2\): the bundle has no small; build with --small"),
    ],
)
def test_bundles_that_cannot_be_set_side_by_side_are_refused_by_name(opened, change, words):
    other = changed(opened, **change(opened.manifest.facts))
    with pytest.raises(CannotCompare, match=f"other cannot be set beside first: {words}"):
        check_comparable({"first": opened, "other": other}, [schedule_from_text("small:2")])


def test_another_default_is_no_reason_to_refuse(opened):
    defaults = msgspec.structs.replace(opened.manifest.facts.defaults, guidance_scale=1.0)
    check_comparable({"first": opened, "other": changed(opened, defaults=defaults)}, [schedule_from_text("small:2")])


def test_bundles_of_one_folders_name_go_by_their_paths(tiny_bundle, tmp_path):
    other = shutil.copytree(tiny_bundle, tmp_path / tiny_bundle.name)
    assert list(opened_all([tiny_bundle, other])) == [str(tiny_bundle), str(other)]
    with pytest.raises(CannotCompare, match=r"names '.*' a second time"):
        opened_all([tiny_bundle, tiny_bundle])


def test_comparison_survives_json(report):
    assert comparison_from_json(comparison_json(report)) == report
    assert report.summary().times == {} and report.times


def test_table_and_sentences_are_of_every_bundle(report):
    table = markdown(report, {"more": {"bundle": "1e-7", "twin": "2e-7"}})
    assert table.startswith(
        "| bundle | schedule | MB | opened MB | peak MB | picture ms | speedup | PSNR, dB to the first"
    )
    assert "| twin: ort-cpu, fp32, unquantized | `large:3` |" in table and table.count("| 2e-7 |") == 2
    assert block(msgspec.to_builtins(report.summary())) == markdown(report)
    (told,) = headline(report)
    assert re.match(r"twin is \d\.\d\d \(.*\) times as fast as bundle, PSNR 58\.9 dB to its pictures; ", told)


def test_folder_holds_a_page_that_fetches_nothing(report, done, tmp_path):
    files = write_comparison(tmp_path / "out", report, done.rounds)
    names = ["report.json", "table.md", "pareto.svg", "pareto.png", "sheet.png", "report.html"]
    assert [file.name for file in files] == names
    html = files[-1].read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)([^\"]+)|url\((?!#)([^)]+)|@import|<script|<link", html)
    for told in (*headline(report), *report.notes, report.command, "<b>twin</b>", "<code>large:3</code>"):
        assert told in html
    assert set(merged_rounds(done.rounds)[0].shots) == {
        f"{n}, {s}" for n in ("bundle", "twin") for s in report.schedules
    }
