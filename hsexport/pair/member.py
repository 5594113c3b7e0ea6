"""One member of a pair, read and sound in itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .checkpoint import check_checkpoint, parameters_in
from .config import TransformerConfig, transformer_config_from
from .layout import ModelDirectory, find_model
from .shards import TensorHeader, read_headers
from .source import Role, resolve_source


@dataclass(frozen=True)
class Member:
    """A transformer and whatever lies beside it; `source` is what the user gave, `tensors` its weights by name."""

    role: Role
    source: str
    directory: ModelDirectory
    config: TransformerConfig
    parameters: int
    tensors: Mapping[str, TensorHeader] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.role} '{self.source}'"


def read_member(role: Role, source: str) -> Member:
    """The member behind `source`, its weights set beside its configuration."""
    directory = find_model(resolve_source(source, role))
    config = transformer_config_from(directory.transformer)
    headers = read_headers(directory.transformer)
    check_checkpoint(directory.transformer, config, headers)
    return Member(role, source, directory, config, parameters_in(headers), headers)
