"""Who else is alive on this machine: what tells a leftover from another process's work."""

from __future__ import annotations

import os


def is_other_process(pid: int) -> bool:
    """Whether a living process other than this one has that id; in a container a dead writer's id is ours again."""
    if pid == os.getpid():
        return False
    if os.name != "posix":
        return True  # os.kill would end the process there
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
