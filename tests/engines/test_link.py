import os

import pytest

from hsengines.link import link_or_copy


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(b"weights")
    return path


def test_target_is_the_source_under_another_name(source, tmp_path):
    assert link_or_copy(source, tmp_path / "target").samefile(source)


def test_target_is_a_copy_where_links_are_refused(source, tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    target = link_or_copy(source, tmp_path / "target")
    assert target.read_bytes() == b"weights"
    assert not target.samefile(source)


def test_symbolic_link_is_followed(source, tmp_path):
    (tmp_path / "symbolic").symlink_to(source)
    target = link_or_copy(tmp_path / "symbolic", tmp_path / "target")
    assert not target.is_symlink()
    assert target.samefile(source)
