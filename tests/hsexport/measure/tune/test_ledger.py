import msgspec
import pytest

from hsengines.errors import HSError
from hsexport.measure.tune.measuring import LEDGER_NAME, Conditions, Ledger, Measurement, subject_of

CONDITIONS = Conditions("0123456789abcdef", 0, "large:28", "large:100", "psnr")


def measurement(seed=0, schedule="large:14"):
    return Measurement(CONDITIONS, schedule, "a fox", seed, 0.5, 1.0, 30.0)


def test_measurement_is_found_again(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.add(measurement())
    with Ledger(tmp_path) as ledger:
        assert len(ledger) == 1
        assert ledger.find(CONDITIONS, "large:14", "a fox", 0) == measurement()
        assert ledger.find(CONDITIONS, "large:14", "a fox", 1) is None


@pytest.mark.parametrize("cut", [1, 10, 150])
def test_torn_last_line_is_cut_off_and_writing_goes_on(tmp_path, cut):
    with Ledger(tmp_path) as ledger:
        ledger.add(measurement(0))
        ledger.add(measurement(1))
    file = tmp_path / LEDGER_NAME
    file.write_bytes(file.read_bytes()[:-cut])
    with Ledger(tmp_path) as ledger:
        assert len(ledger) == 1
        ledger.add(measurement(2))
    with Ledger(tmp_path) as ledger:
        assert len(ledger) == 2
        assert ledger.find(CONDITIONS, "large:14", "a fox", 2) is not None


def test_broken_line_in_the_middle_is_named(tmp_path):
    good = msgspec.json.encode(measurement()) + b"\n"
    (tmp_path / LEDGER_NAME).write_bytes(good + b"{}\n" + good)
    with pytest.raises(HSError, match=r"ledger.jsonl, line 2 .* delete that line"):
        Ledger(tmp_path)
    (tmp_path / LEDGER_NAME).write_bytes(good)
    with Ledger(tmp_path) as ledger:  # the failed opening left no lock behind
        assert len(ledger) == 1


def test_second_search_in_one_folder_is_refused(tmp_path):
    with Ledger(tmp_path), pytest.raises(HSError, match="another search is at work"):
        Ledger(tmp_path)


def test_subject_ignores_the_defaults_that_tuning_changes(manifest):
    tuned = msgspec.structs.replace(manifest.facts.defaults, schedule="large:14", steps=14)
    guided = msgspec.structs.replace(manifest.facts.defaults, guidance_scale=1.0)
    assert subject_of(manifest.with_defaults(tuned)) == subject_of(manifest)
    assert subject_of(manifest.with_defaults(guided)) != subject_of(manifest)
    assert subject_of(msgspec.structs.replace(manifest, device="another")) != subject_of(manifest)


def test_first_defaults_outlive_tuning(manifest, tmp_path):
    tuned = msgspec.structs.replace(manifest.facts.defaults, schedule="large:14", steps=14)
    with Ledger(tmp_path) as ledger:
        assert ledger.first_defaults(manifest) == manifest.facts.defaults
    with Ledger(tmp_path) as ledger:
        assert ledger.first_defaults(manifest.with_defaults(tuned)) == manifest.facts.defaults
