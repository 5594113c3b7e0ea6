"""The whole benchmark on the tiny bundle, and what its report says."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from hsengines.errors import HSError
from hsexport.measure.bench.bench import BenchRequest, bench
from hsexport.measure.bench.page import write_report
from hsexport.measure.bench.report import Point, columns_of, front, headline, report_from_json, report_json
from hsexport.measure.bench.table import block, markdown, splice
from hsexport.measure.turns import Estimate
from hsexport.progress import Reporter

SCHEDULES = ("large:2,hybrid:1,small:1", "large:2,hybrid:1,small:1;signal=random", "large:4", "small:4")


class Listening(Reporter):
    """Counts what is drawn."""

    def __init__(self):
        self.drawn = 0
        self.current = ""

    def stage(self, name, items):
        self.current = name

    def begin(self, item, note=""):
        self.drawn += self.current == "draw"


@pytest.fixture(scope="module")
def request_(tiny_bundle, judge_folder, tmp_path_factory):
    work = tmp_path_factory.mktemp("bench") / "work"
    return BenchRequest(tiny_bundle, work, SCHEDULES, judge=judge_folder, prompts=4)


@pytest.fixture(scope="module")
def done(request_):
    return bench(request_, Reporter())


@pytest.fixture(scope="module")
def report(done):
    return replace(done.report, command="hsexport bench build/demo.bundle --out build/bench")


def test_speedups_are_ratios_within_one_prompts_round(report):
    mixed = report.score(SCHEDULES[0])
    ratios = [t.loop_seconds["large"] / t.loop_seconds[SCHEDULES[0]] for t in report.times]
    assert mixed.speed.speedup.value == pytest.approx(np.median(ratios))
    assert mixed.speed.quartiles == pytest.approx(np.percentile(ratios, [25, 75]))
    assert report.score("large").speed.speedup == Estimate(1.0, 1.0, 1.0)
    assert mixed.speed.measured_over_predicted == pytest.approx(mixed.speed.speedup.value / mixed.speed.predicted)


def test_distances_to_both_references_are_there(report):
    assert report.score("large").quality.to_large is None
    assert report.score("large:100").quality.to_converged is None
    mixed = report.score(SCHEDULES[0]).quality
    for distances in (mixed.to_large, mixed.to_converged):
        assert distances.psnr.low <= distances.psnr.value <= distances.psnr.high
        assert 0 < distances.stlpips.low <= distances.stlpips.value <= distances.stlpips.high
        assert distances.features.value > 0


def test_the_judge_names_pictures_and_few_prompts_have_no_frechet_distance(report):
    assert 0 <= report.score("small:4").quality.top_1.value <= report.score("small:4").quality.top_5.value <= 1
    assert report.score("small:4").quality.frechet is None
    assert any("it needs 200 prompts" in note for note in report.notes)


def test_a_second_run_takes_up_the_rounds_of_the_first(request_, done):
    listening = Listening()
    again = bench(request_, listening)
    assert listening.drawn == 0
    assert again.report.times == done.report.times and again.report.scores == done.report.scores
    more = bench(replace(request_, prompts=6), listening)
    assert listening.drawn == 2 and more.report.prompts == 6  # four of the six were there


def test_without_a_judge_its_columns_are_left_out_and_it_says_so(request_, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("abc\n\nfox\n")
    plain = bench(
        replace(request_, judge=None, prompt_file=file, work=tmp_path, schedules=("small:2",)), Reporter()
    ).report
    assert plain.prompts == 2
    assert not any(c.title in ("features", "named", "Frechet") for c in columns_of(plain))
    assert any("no judge" in note for note in plain.notes)


@pytest.mark.slow
def test_prompts_that_name_nothing_have_no_fidelity_but_a_frechet_distance(request_, tmp_path, monkeypatch):
    monkeypatch.setattr("hsexport.measure.bench.scores.FEWEST_FOR_FRECHET", 20)  # 200 pictures would take too long here
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(f"p{i}" for i in range(20)))
    asked = replace(request_, prompt_file=file, prompts=20, work=tmp_path / "work", schedules=("small:1",))
    score = bench(asked, Reporter()).report.score("small:1").quality
    assert score.top_1 is None
    assert score.frechet.low <= score.frechet.value <= score.frechet.high


@pytest.mark.slow
def test_diffusers_draws_the_same_picture_from_the_same_noise(request_, tiny_pair_dirs, tmp_path):
    asked = replace(
        request_, diffusers=str(tiny_pair_dirs[0]), diffusers_every=2, work=tmp_path, schedules=("small:1",)
    )
    measured = bench(asked, Reporter())
    report = measured.report
    assert report.diffusers.prompts == 2 and report.diffusers.quality.frechet is None
    # Its 28 Euler steps of large are the bundle's own default: equal but for rounding.
    assert report.diffusers.quality.to_large.psnr.value > 50
    taking = [t for t in report.times if "diffusers" in t.picture_seconds]
    ratios = [t.picture_seconds["diffusers"] / t.picture_seconds["large"] for t in taking]
    assert report.score("large").over_diffusers.value == pytest.approx(np.median(ratios))
    assert "Over diffusers' own pipeline" in headline(report)[-1]


def test_report_survives_json(report):
    assert report_from_json(report_json(report)) == report
    assert report.summary().times == [] and report.times


def test_a_report_from_before_st_lpips_is_read_and_shown_without_it(report):
    assert "ST-LPIPS to large" in markdown(report)
    old = json.loads(report_json(report))
    for score in old["scores"]:
        for distances in (score["quality"]["to_large"], score["quality"]["to_converged"]):
            if distances:
                del distances["stlpips"]
    assert "ST-LPIPS" not in block(old)


def test_table_is_made_of_nothing_but_the_summary(report):
    assert block(json.loads(report_json(report.summary()))) == markdown(report)


def test_table_is_put_into_its_block_and_nowhere_else(report, tmp_path):
    other = "<!-- numbers: ./scripts/x -> docs/x.json -->\n1\n<!-- end of numbers -->\n"
    readme = tmp_path / "README.md"
    readme.write_text(
        f"# A\n{other}text\n<!-- numbers: hsexport bench B -> docs/b.json -->\nold\n<!-- end of numbers -->\nend\n"
    )
    assert splice(readme, report, b"a plot") == [tmp_path / "docs" / "b.json", tmp_path / "docs" / "b.png"]
    text = readme.read_text()
    assert other in text and "old" not in text and text.endswith("<!-- end of numbers -->\nend\n")
    assert f"<!-- numbers: {report.command} -> docs/b.json -->\n\n| schedule |" in text
    assert "(docs/b.png)\n\n<!-- end of numbers -->" in text and (tmp_path / "docs" / "b.png").read_bytes() == b"a plot"
    assert report_from_json((tmp_path / "docs" / "b.json").read_bytes()) == report.summary()
    splice(readme, report, b"a plot")
    assert readme.read_text() == text


def test_a_readme_without_the_block_is_told(report, tmp_path):
    (tmp_path / "README.md").write_text("# A\n")
    with pytest.raises(HSError, match=r"README\.md has no block for the numbers of hsexport bench"):
        splice(tmp_path / "README.md", report, b"a plot")


def test_report_folder_holds_a_page_that_fetches_nothing(report, done, tmp_path):
    files = write_report(tmp_path / "out", report, done.rounds)
    names = ["report.json", "table.md", "pareto.svg", "pareto.png", "sheet.png", "report.html"]
    assert [f.name for f in files] == names and sorted(names) == sorted(f.name for f in (tmp_path / "out").iterdir())
    html = files[-1].read_text()
    fetched = re.findall(r"(?:src|href)=\"(?!data:|#)([^\"]+)|url\((?!#)([^)]+)|@import|<script|<link", html)
    assert not fetched
    for told in (*headline(report), report.hardware.processor, report.command):
        assert told.replace("'", "&#39;") in html
    assert all(f"<b>{s.name}</b>" in html for s in report.scores)
    assert "<svg" in html and "<?xml" not in html


def point(name, speedup, distance):
    return Point(name, "mixture", *(Estimate(v, v, v) for v in (speedup, distance)))


def test_front_holds_what_nothing_beats_on_both_sides():
    points = [point("slow", 1, 0.1), point("beaten", 1.5, 0.3), point("mid", 2, 0.2), point("twin", 2, 0.25),
              point("fast", 3, 0.4)]  # fmt: skip
    assert [p.name for p in front(points)] == ["slow", "mid", "fast"]


def test_headline_says_which_way_fewer_steps_fall(report):
    told = " ".join(headline(report))
    assert f"{SCHEDULES[0]} is " in told and "times as fast as large alone" in told
    assert "No other schedule is faster and nearer" in told
