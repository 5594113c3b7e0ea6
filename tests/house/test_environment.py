"""scripts/lib/environment.sh: which virtual environments are kept."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "lib" / "environment.sh"


def is_kept(checkout: Path) -> bool:
    """Whether the checkout's environment is taken for one that was made there."""
    command = f'source "{SCRIPT}" && environment_belongs_here'
    return subprocess.run(["bash", "-c", command], cwd=checkout).returncode == 0


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose environment has a python that answers everything."""
    folder = tmp_path / "checkout"
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    return folder


# As pip writes them: plain, long, and with a blank in the path.
@pytest.mark.parametrize(
    "head",
    [
        "#!{}/.venv/bin/python3\n",
        "#!/bin/sh\n'''exec' {}/.venv/bin/python3 \"$0\" \"$@\"\n",
        '#!/bin/sh\n\'\'\'exec\' "{}/.venv/bin/python3" "$0" "$@"\n',
    ],
)
def test_environment_is_kept_where_it_was_made_and_not_after_a_move(checkout, head):
    (checkout / ".venv" / "bin" / "pip").write_text(head.format(checkout))
    assert is_kept(checkout)
    assert not is_kept(checkout.rename(checkout.with_name("moved")))


def test_missing_environment_is_not_kept(tmp_path):
    assert not is_kept(tmp_path)
