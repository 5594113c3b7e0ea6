"""One member of a pair, read and sound in itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .checkpoint import check_checkpoint, parameters_in
from .config import TransformerConfig, transformer_config_from
from .downloads import DOWNLOADS, Fetcher
from .layout import ModelDirectory, find_model
from .mark import mark_of
from .shards import TensorHeader, read_headers
from .single_file import read_single_file
from .source import Role, is_local, resolve_source


@dataclass(frozen=True)
class Member:
    """A transformer and whatever lies beside it; `source` is what the user gave.

    `tensors` are its weights by diffusers' names: the same, with the same digest, from every layout.
    """

    role: Role
    source: str
    directory: ModelDirectory
    config: TransformerConfig
    parameters: int
    tensors: Mapping[str, TensorHeader] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.role} '{self.source}'"

    def told_source(self) -> str:
        """Where it is from, as a bundle may tell: `demo` or a hub id as given, a mark in place of a local path."""
        return mark_of(self.tensors) if is_local(self.source) else self.source


def read_member(role: Role, source: str, without: Collection[str] = (), fetcher: Fetcher = DOWNLOADS) -> Member:
    """The member behind `source`, its weights set beside its configuration; those of `without` need not be there."""
    directory = find_model(resolve_source(source, role, without, fetcher))
    config, tensors = read_transformer(directory.transformer)
    return Member(role, source, directory, config, parameters_in(tensors), tensors)


def read_transformer(transformer: Path) -> tuple[TransformerConfig, dict[str, TensorHeader]]:
    """Configuration and tensors, by headers alone: of a folder as diffusers writes it, or of a single file."""
    if transformer.is_file():
        return read_single_file(transformer)
    config, tensors = transformer_config_from(transformer), read_headers(transformer)
    check_checkpoint(transformer, config, tensors)
    return config, tensors
