import msgspec
import pytest

from hsengines.errors import HSError
from hsexport.measure import prompts


@pytest.fixture
def demo_manifest(manifest):
    facts, replace = manifest.facts, msgspec.structs.replace
    demo = {role: replace(getattr(facts, role), source="demo") for role in ("large", "small")}
    return replace(manifest, facts=replace(facts, **demo))


def prompts_for(manifest, file, count):
    """As tune takes them."""
    return prompts.shuffled(prompts.prompts_for(manifest, file, count))


@pytest.fixture
def listed(tmp_path):
    (tmp_path / "prompts.txt").write_text("".join(f"{n}\n" for n in range(100)))
    return tmp_path / "prompts.txt"


def test_demo_pair_brings_its_captions(demo_manifest):
    assert len(prompts_for(demo_manifest, None, 48)) == 48


def test_file_goes_before_the_demos_captions(demo_manifest, listed):
    assert {p.text for p in prompts_for(demo_manifest, listed, 1000)} == {str(n) for n in range(100)}


def test_other_pairs_need_a_file(manifest):
    with pytest.raises(HSError, match="--prompt-file"):
        prompts_for(manifest, None, 48)


def test_prompts_are_spread_and_so_is_their_beginning(manifest, listed):
    found = prompts_for(manifest, listed, 12)
    assert sorted(p.seed for p in found) == [9 * n for n in range(12)]
    first = [p.seed for p in found[:4]]
    assert max(first) - min(first) > 50


def test_same_prompts_every_time(manifest, listed):
    assert prompts_for(manifest, listed, 12) == prompts_for(manifest, listed, 12)
