"""Goldens: one random input of a network and its torch module's answer, kept in the bundle for later checks."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hsruntime.bundle.manifest import BundleError

MOST_BYTES = 2**31
"""Of all arrays of a golden together, unpacked."""


def save_golden(path: Path, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
    """Writes a compressed npz with members in/<name> and out/<name>; the same arrays give the same bytes."""
    members = {f"in/{n}": a for n, a in inputs.items()} | {f"out/{n}": a for n, a in outputs.items()}
    np.savez_compressed(path, allow_pickle=False, **members)


def load_golden(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs and outputs by name; never unpickles. Raises BundleError for a file that is no archive of arrays."""
    try:
        members = _arrays(path)
    except _UNREADABLE as err:
        raise BundleError(f"golden '{path}' is not an archive of arrays: {err}", "build the bundle again") from err
    inputs = {n.removeprefix("in/"): a for n, a in members.items() if n.startswith("in/")}
    return inputs, {n.removeprefix("out/"): a for n, a in members.items() if n.startswith("out/")}


# What numpy and zipfile let through: encrypted members are a RuntimeError, unknown compression its child.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, RuntimeError, ValueError)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        size_bytes = sum(member.file_size for member in archive.infolist())
    if size_bytes > MOST_BYTES:
        raise ValueError(f"its arrays would take {size_bytes} bytes, allowed are {MOST_BYTES}")
    with path.open("rb") as stream, np.lib.npyio.NpzFile(stream, allow_pickle=False) as archive:
        members = {name: archive[name] for name in archive.files}
    for name, member in members.items():
        if not isinstance(member, np.ndarray):  # numpy hands out what is no array as raw bytes
            raise ValueError(f"member '{name}' is no array")
    return members
