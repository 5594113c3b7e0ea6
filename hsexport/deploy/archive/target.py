"""The machine that an archive is for: its Python and its platform, for markers and for pip."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass

from hsengines.errors import HSError

_LIBCS = (17, 24, 26, 27, 28, 31, 34, 35)
"""Of glibc 2.x, the versions that wheels are built for."""


def _linux(machine: str) -> tuple[dict[str, str], tuple[str, ...]]:
    markers = {
        "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": machine,
    }  # fmt: skip
    oldest = "manylinux1" if machine == "x86_64" else "manylinux2014"
    named = (f"{oldest}_{machine}", f"manylinux2014_{machine}", f"linux_{machine}")
    # The oldest first: pip takes the first that fits, and the machine's own glibc is not known here.
    return markers, (*(f"manylinux_2_{minor}_{machine}" for minor in _LIBCS), *named)


PLATFORMS = {
    "linux-x86_64": _linux("x86_64"),
    "linux-aarch64": _linux("aarch64"),
    "windows-x86_64": (
        {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
        ("win_amd64",),
    ),
}
"""What `--platform` may say: its markers, where they differ from this machine's, and pip's tags for it."""


@dataclass(frozen=True)
class Target:
    """A Python (3.11) and a platform of PLATFORMS; what is None is this machine's. Raises HSError."""

    python: str | None = None
    platform: str | None = None

    def __post_init__(self) -> None:
        if self.platform is not None and self.platform not in PLATFORMS:
            raise HSError(f"there is no platform '{self.platform}'", f"choose one of {', '.join(PLATFORMS)}")
        if self.python is not None and not re.fullmatch(r"3\.\d+", self.python):
            raise HSError(f"'{self.python}' is no Python version", "say 3.11, for one")

    @property
    def is_here(self) -> bool:
        """Whether wheels built on this machine are right there, too."""
        return self.platform is None and self.python in (None, here())

    @property
    def python_version(self) -> str:
        """Two numbers."""
        return self.python or here()

    @property
    def is_windows(self) -> bool:
        """Whether its shell is not a POSIX one."""
        return self.markers.get("os_name", os.name) == "nt"

    @property
    def markers(self) -> dict[str, str]:
        """For requirements' markers: where it differs from this machine."""
        python = {"python_version": self.python_version, "python_full_version": f"{self.python_version}.0"}
        platform = PLATFORMS[self.platform][0] if self.platform else {}
        return {**(python if self.python else {}), **platform}

    @property
    def pip_options(self) -> list[str]:
        """Choose wheels for it, and nothing but wheels."""
        options = ["--only-binary=:all:", "--implementation=cp", f"--python-version={self.python_version}"]
        tags = PLATFORMS[self.platform][1] if self.platform else ()
        return options + [f"--platform={tag}" for tag in tags]


def here() -> str:
    """The version of the Python that runs this: 3.11."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"
