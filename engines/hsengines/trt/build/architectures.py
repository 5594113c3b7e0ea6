"""Which GPUs a TensorRT-RTX engine is for."""

from __future__ import annotations

import re
from typing import Any

from hsengines.errors import EngineBuildError
from hsengines.trt.options import RtxOptions

OLDEST = 80
"""Where the default begins: Turing (75) is left out, for it has no bf16."""


def known_architectures(library: Any) -> tuple[int, ...]:
    """The compute capabilities that `library` can build for, ascending: 75, 80, 86, 89, 120, ..."""
    names = (re.fullmatch(r"SM(\d+)", name) for name in dir(library.ComputeCapability))
    return tuple(sorted(int(match[1]) for match in names if match))


def chosen_architectures(library: Any, options: RtxOptions) -> tuple[int, ...]:
    """Those that `options` asks for, ascending; by default all from OLDEST on, which one engine holds at no cost.

    A small transformer of 17.4 MB grew by less than 100 bytes from one architecture to four, by 2 % to all six.
    """
    asked = options.architectures or (a for a in known_architectures(library) if a >= OLDEST)
    return tuple(sorted(set(asked)))


def check_architectures(library: Any, title: str, options: RtxOptions) -> None:
    """Raises EngineBuildError for an architecture that `library` does not know, or that lacks the precision."""
    known = known_architectures(library)
    unknown = sorted(set(options.architectures) - set(known))
    if unknown:
        listed = ", ".join(map(str, known))
        found = f"{title} {library.__version__} cannot build for --arch {unknown[0]}: it knows {listed}"
        raise EngineBuildError(found, _elsewhere(unknown))
    if options.precision == "bf16" and any(asked < OLDEST for asked in options.architectures):
        raise EngineBuildError(
            f"{title} cannot build bf16 for --arch {min(options.architectures)}, which has no bf16",
            "leave it out, or build with --precision fp16",
        )


def _elsewhere(unknown: list[int]) -> str:
    if {90, 100, 103} & set(unknown):
        return "datacenter GPUs such as the H100 (90) are for backend tensorrt or ort-cuda"
    return "give compute capabilities such as 89 or 120"
