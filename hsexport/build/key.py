"""Build keys: everything that decides what a product is, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KEY_SCHEMA = 1


@dataclass(frozen=True)
class BuildKey:
    """Named facts about one product, for example {"builder": "onnxruntime 1.31.1", "onnx": "ab12..."}."""

    kind: str
    name: str
    facts: Mapping[str, str]

    @property
    def digest(self) -> str:
        """sha256 over schema version, kind, name and facts."""
        whole = {"schema": KEY_SCHEMA, "kind": self.kind, "name": self.name, "facts": dict(self.facts)}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def changes_since(self, earlier: Mapping[str, str]) -> str:
        """Which facts differ from an earlier build's, in words: "builder 11.3 -> 11.4"."""
        names = sorted(set(self.facts) | set(earlier))
        changed = [n for n in names if self.facts.get(n) != earlier.get(n)]
        return ", ".join(f"{n} {_short(earlier.get(n))} -> {_short(self.facts.get(n))}" for n in changed)


def _short(value: str | None) -> str:
    if value is None:
        return "nothing"
    return value[:8] if len(value) == 64 else value[:60]


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
